//! An `nft -i` that stays: it is told to include a file in memory for each transaction, and says on its standard error what it refuses.
//!
//! A process of its own for each transaction costs ten times what a small transaction does, and a line is read byte by byte
//! (decision 0026).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

/// No command of nft: it answers to this with an error that repeats the word, and so says that it has done all before.
const QUESTION: &str = "answered";
/// It writes what it was told into a history in the home folder, and there is none here.
const NO_HOME: &str = "/dev/null";

/// One of them.
pub(super) struct Interpreter {
    child: Child,
    lines: ChildStdin,
    errors: Lines<BufReader<ChildStderr>>,
    /// The script of the moment.
    script: File,
    made: usize,
    /// It was asked something, and has not said that it is done.
    is_busy: bool,
}

impl Interpreter {
    /// Starts it and hears what it has to say of itself: where there is no terminal database, as in a container, that is two
    /// lines about the terminal, which refuse nothing.
    ///
    /// # Errors
    /// There is no nft, it was built without `-i`, or it cannot read our files in memory.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let mut child = Command::new("nft")
            .arg("-i")
            .env("HOME", NO_HOME)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run nft: install the package nftables")?;
        let lines = child.stdin.take().context("nft has no standard input")?;
        let errors = BufReader::new(child.stderr.take().context("nft has no standard error")?).lines();
        let script = linux::memory::file("nft").context("no file in memory")?;
        let mut interpreter = Self { child, lines, errors, script, made: 0, is_busy: false };
        let _about_itself = interpreter.ask("").await?;
        interpreter.apply("").await?;
        Ok(interpreter)
    }

    /// Whether it runs no more.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it runs, and has done all that it was told.
    pub(super) fn is_ready(&mut self) -> bool {
        !self.is_busy && !self.has_ended()
    }

    #[cfg(test)]
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    #[cfg(test)]
    pub(super) async fn end(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Transactions that it has made: it remembers every line that it was told.
    pub(super) fn made(&self) -> usize {
        self.made
    }

    /// Applies a script as one transaction.
    ///
    /// # Errors
    /// It refuses, and nothing has changed; or it has ended, and whether something has is not known.
    pub(super) async fn apply(&mut self, script: &str) -> anyhow::Result<()> {
        self.made += 1;
        self.write(script).context("no room for a script")?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.script.as_raw_fd());
        let said = self.ask(&format!("include \"{path}\"\n")).await?;
        if said.is_empty() { Ok(()) } else { bail!("nft refused: {}", refusal(&path, &said)) }
    }

    fn write(&self, script: &str) -> io::Result<()> {
        self.script.set_len(0)?;
        self.script.write_all_at(script.as_bytes(), 0)
    }

    /// Hands lines over, and returns what it said until it had done them.
    async fn ask(&mut self, lines: &str) -> anyhow::Result<Vec<String>> {
        self.is_busy = true;
        self.lines.write_all(format!("{lines}{QUESTION}\n").as_bytes()).await.context("nft -i has ended")?;
        let mut said = Vec::new();
        loop {
            let line = self.errors.next_line().await?;
            let Some(line) = line else { bail!("nft -i ended: {}", said.join(" ")) };
            if line == QUESTION {
                break;
            }
            said.push(line);
        }
        // what points at the last question's word, and the error about this one
        let is_pointer = |line: &String| line.trim().chars().all(|c| c == '^');
        self.is_busy = false;
        let _about_the_question = said.pop();
        if said.first().is_some_and(is_pointer) {
            said.remove(0);
        }
        Ok(said)
    }
}

/// What nft said of an included file, without where that is, and without the marks below a statement.
fn refusal(path: &str, said: &[String]) -> String {
    let mut words = Vec::new();
    for text in said {
        if text.starts_with("In file included from ") || text.chars().all(|c| matches!(c, '^' | '~' | ' ')) {
            continue;
        }
        // PATH:LINE:COLUMNS: Error: WHAT, and then the statement
        match text.strip_prefix(path).and_then(|place| place.split_once(": ")) {
            Some((_, what)) => words.push(what.to_owned()),
            None if text.contains("Error: ") => words.push(text.clone()),
            None => words.push(format!("in `{text}`")),
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_statement_and_not_where_it_was_written() {
        // as nft 1.0.6 says it
        let said = [
            "In file included from <cmdline>:1:1-27:",
            "/proc/29319/fd/3:2:15-21: Error: Could not process rule: No such file or directory",
            "add rule inet nowhere nobody drop",
            "              ^^^^^^^ ~~~",
        ];
        let said = said.map(str::to_owned);
        let words = "Error: Could not process rule: No such file or directory in `add rule inet nowhere nobody drop`";
        assert_eq!(refusal("/proc/29319/fd/3", &said), words);
        let gone = ["Error: Could not open file \"/proc/29319/fd/3\": No such file or directory".to_owned()];
        assert_eq!(refusal("/proc/29319/fd/3", &gone), gone[0]);
    }
}
