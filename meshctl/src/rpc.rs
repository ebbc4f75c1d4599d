//! One question, one answer: a JSON line each way over a unix socket, as meshd's admin sockets speak.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;

/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What every socket answers.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    error: Option<String>,
    result: Option<Value>,
}

/// Asks the program behind `socket` and returns its `result`.
///
/// # Errors
/// Nobody listens there, no answer within `patience`, no JSON, or the program's own refusal.
pub(crate) fn ask(socket: &Path, question: &Value, patience: Duration) -> anyhow::Result<Value> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).with_context(|| format!("nobody answers at {shown}"))?;
    stream.set_read_timeout(Some(patience)).context("cannot set a time limit")?;
    stream.set_write_timeout(Some(patience)).context("cannot set a time limit")?;
    stream.write_all(format!("{question}\n").as_bytes()).with_context(|| format!("cannot write to {shown}"))?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX))
        .read_line(&mut line)
        .with_context(|| format!("no answer from {shown} within {} s", patience.as_secs()))?;
    let answer: Answer = serde_json::from_str(&line).with_context(|| format!("{shown} gave no proper answer"))?;
    match answer {
        Answer { ok: true, result, .. } => Ok(result.unwrap_or(Value::Null)),
        Answer { error, .. } => bail!("{shown}: {}", error.as_deref().unwrap_or("refused without a reason")),
    }
}

/// Asks and reads the answer as `T`.
///
/// # Errors
/// As [`ask`], and when the answer has another shape.
pub(crate) fn ask_for<T: serde::de::DeserializeOwned>(socket: &Path, verb: &str) -> anyhow::Result<T> {
    let result = ask(socket, &serde_json::json!({ "verb": verb }), Duration::from_secs(10))?;
    serde_json::from_value(result)
        .with_context(|| format!("{} answered `{verb}` in a form this meshctl does not know", socket.display()))
}

/// Reads one question, at most 64 KiB of it.
///
/// # Errors
/// The other side went away, was too slow, or does not speak JSON.
pub(crate) fn read_question(stream: &UnixStream) -> anyhow::Result<Value> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).context("cannot set a time limit")?;
    let mut line = String::new();
    BufReader::new(stream.take(64 * 1024)).read_line(&mut line).context("cannot read the question")?;
    serde_json::from_str(&line).context("the question is no JSON line")
}

/// Answers one question.
///
/// # Errors
/// The other side went away.
pub(crate) fn write_answer(mut stream: &UnixStream, answer: &Result<Value, String>) -> anyhow::Result<()> {
    let line = match answer {
        Ok(result) => serde_json::json!({ "ok": true, "result": result }),
        Err(error) => serde_json::json!({ "ok": false, "error": error }),
    };
    stream.set_write_timeout(Some(Duration::from_secs(5))).context("cannot set a time limit")?;
    stream.write_all(format!("{line}\n").as_bytes()).context("cannot write the answer")
}
