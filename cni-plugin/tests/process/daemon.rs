//! A daemon that answers as a test tells it to, and remembers what it was asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use cni::{Answer, Error, Question};
use serde_json::Value;

/// What the daemon does with one question.
pub(crate) enum Reply {
    /// Says this and hangs up.
    Bytes(Vec<u8>),
    /// Says nothing and waits until the plugin hangs up.
    Nothing,
    /// Says something now and then, never a whole answer.
    Trickle,
    /// Talks until the plugin hangs up, and then sends how many bytes that took.
    Flood(Sender<usize>),
    /// Answers as it should, once the test says so.
    Held(Receiver<()>, Answer),
}

/// A running daemon. Ends when dropped.
pub(crate) struct Daemon {
    asked: Receiver<Vec<u8>>,
    accepting: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    socket: std::path::PathBuf,
}

impl Daemon {
    /// Listens on `socket` and gives each question in turn the next reply. When they are used up it hangs up at once.
    pub(crate) fn start(socket: &Path, replies: Vec<Reply>) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (tell, asked) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let accepting = std::thread::spawn(move || {
            let mut replies = replies.into_iter();
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                serve(stream.unwrap(), &mut replies, &tell);
            }
        });
        Self { asked, accepting: Some(accepting), stop, socket: socket.to_owned() }
    }

    /// Answers every question with `ok`.
    pub(crate) fn agreeing(socket: &Path) -> Self {
        Self::answering(socket, (0..9).map(|_| Answer::Done { result: None }).collect())
    }

    /// Answers as it should.
    pub(crate) fn answering(socket: &Path, answers: Vec<Answer>) -> Self {
        Self::start(socket, answers.iter().map(|answer| Reply::Bytes(answer.encode().unwrap())).collect())
    }

    /// The next question, waiting for it.
    pub(crate) fn next_question(&self) -> Question {
        let line = self.asked.recv_timeout(Duration::from_secs(20)).expect("a question comes");
        Question::decode(&line).unwrap()
    }

    /// What was asked since: `VERB attachment`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.lines().iter().map(|line| summary(line)).collect()
    }

    /// What was asked since, line by line.
    pub(crate) fn lines(&self) -> Vec<Vec<u8>> {
        self.asked.try_iter().collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(UnixStream::connect(&self.socket));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

/// An answer that refuses.
pub(crate) fn refusal(code: cni::Code, msg: &str) -> Answer {
    Answer::Refused(Error::new(code, msg, ""))
}

fn summary(line: &[u8]) -> String {
    let question = Question::decode(line).unwrap();
    let about = question.attachment().map(|attachment| format!(" {attachment}"));
    format!("{}{}", question.verb().as_str(), about.unwrap_or_default())
}

fn serve(stream: UnixStream, replies: &mut impl Iterator<Item = Reply>, tell: &Sender<Vec<u8>>) {
    let mut line = Vec::new();
    let mut reader = BufReader::new(&stream);
    reader.read_until(b'\n', &mut line).unwrap();
    serde_json::from_slice::<Value>(&line).expect("a question is one line of JSON");
    tell.send(line).unwrap();
    match replies.next() {
        None => {}
        // a plugin that has heard enough hangs up
        Some(Reply::Bytes(bytes)) => drop((&stream).write_all(&bytes)),
        Some(Reply::Nothing) => drop(reader.read_to_end(&mut Vec::new())),
        Some(Reply::Trickle) => {
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            while (&stream).write_all(b" ").is_ok() {
                // paced by the timeout of a read that finds nothing
                drop((&stream).read(&mut [0]));
            }
        }
        Some(Reply::Flood(count)) => {
            let chunk = vec![b'['; 64 << 10];
            let taken = std::iter::from_fn(|| (&stream).write(&chunk).ok()).take_while(|length| *length > 0);
            count.send(taken.sum()).unwrap();
        }
        Some(Reply::Held(go, answer)) => {
            go.recv().unwrap();
            (&stream).write_all(&answer.encode().unwrap()).unwrap();
        }
    }
}
