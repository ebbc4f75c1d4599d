//! An `nft -i` that stays: one line is one transaction, and it says on its standard error what it refuses.
//!
//! A process of its own for each transaction costs ten times what a small transaction does (decision 0026).

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
    told: usize,
    /// It was asked something, and has not said that it is done.
    is_busy: bool,
}

impl Interpreter {
    /// Starts it and hears what it has to say of itself: where there is no terminal database, as in a container, that is two
    /// lines about the terminal, which refuse nothing.
    ///
    /// # Errors
    /// There is no nft, or it was built without `-i`.
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
        let mut interpreter = Self { child, lines, errors, told: 0, is_busy: false };
        let _about_itself = interpreter.ask("").await?;
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

    /// Bytes that it was told: it remembers every line.
    pub(super) fn told(&self) -> usize {
        self.told
    }

    /// Applies a script, whose statements are lines, as one transaction.
    ///
    /// # Errors
    /// It refuses, and nothing has changed; or it has ended, and whether something has is not known.
    pub(super) async fn apply(&mut self, script: &str) -> anyhow::Result<()> {
        let line = one_line(script);
        let said = self.ask(&format!("{line}\n")).await?;
        if said.is_empty() { Ok(()) } else { bail!("nft refused: {}", refusal(&line, &said)) }
    }

    /// Hands lines over, and returns what it said until it had done them.
    async fn ask(&mut self, lines: &str) -> anyhow::Result<Vec<String>> {
        self.told += lines.len();
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

/// The line that says what the lines of a script do: for nft the end of a line and a semicolon separate alike.
fn one_line(script: &str) -> String {
    script.trim_end().replace('\n', "; ")
}

/// What nft said of a line, with the statement that it points at in place of the whole line.
fn refusal(line: &str, said: &[String]) -> String {
    let mut words = Vec::new();
    for text in said {
        let marks = text.trim_start();
        if text == line {
            continue;
        }
        if !marks.is_empty() && marks.chars().all(|c| matches!(c, '^' | '~' | ' ')) {
            let at = text.len() - marks.len();
            words.push(format!("in `{}`", statement_at(line, at)));
        } else {
            words.push(text.clone());
        }
    }
    words.join(" ")
}

/// The statement that has this byte.
fn statement_at(line: &str, at: usize) -> &str {
    let mut end = 0;
    for statement in line.split("; ") {
        end += statement.len() + 2;
        if at < end {
            return statement;
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_a_line_of_its_statements() {
        assert_eq!(one_line("add table inet a\nadd table inet b\n"), "add table inet a; add table inet b");
    }

    #[test]
    fn a_refusal_names_the_statement_and_not_the_whole_line() {
        let line = one_line("add table inet a\nadd rule inet nowhere nobody drop\nadd table inet b\n");
        let said = [
            "Error: Could not process rule: No such file or directory".to_owned(),
            line.clone(),
            format!("{}^^^^^^^ ~~~", " ".repeat(33)),
        ];
        assert_eq!(
            refusal(&line, &said),
            "Error: Could not process rule: No such file or directory in `add rule inet nowhere nobody drop`"
        );
        assert_eq!(statement_at(&line, 0), "add table inet a");
        assert_eq!(statement_at(&line, line.len() - 1), "add table inet b");
        assert_eq!(statement_at(&line, line.len() + 9), "");
    }
}
