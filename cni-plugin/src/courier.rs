//! Carries a question to the daemon within a deadline, and knows what to do when nobody is home.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cni::wire::LINE_LENGTH_MAX;
use cni::{AddResult, Answer, Attachment, Call, Code, Error, Question};
use serde_json::Value;

use crate::log;
use crate::patience::within;
use crate::tombstone::Tombstone;

/// One call's courier: it counts from the call's start.
pub(crate) struct Courier {
    started: Instant,
}

/// Why there is no answer.
enum Failure {
    /// The daemon has not got the question: nothing has happened.
    Unasked { socket: PathBuf, cause: io::Error },
    /// The daemon may have got the question: whether anything has happened is not known.
    Unanswered { socket: PathBuf, cause: String },
}

impl Courier {
    /// A courier whose call began at `started`.
    pub(crate) fn new(started: Instant) -> Self {
        Self { started }
    }

    /// Asks, and answers what to print: the result of an ADD, nothing for the other verbs.
    ///
    /// # Errors
    /// The error to print: the daemon's own, or that there is no daemon. A DEL that finds none is left as a tombstone
    /// and succeeds.
    pub(crate) fn carry(&self, question: &Question) -> Result<Option<Value>, Error> {
        match &question.call {
            Call::Add { attachment, previous, .. } => self.add(question, attachment, previous).map(Some),
            Call::Del { attachment, netns, .. } => self.del(question, attachment, netns.as_deref()).map(|()| None),
            Call::Check { .. } | Call::Gc { .. } => match self.ask(question) {
                Ok(Answer::Done { .. }) => Ok(None),
                Ok(Answer::Refused(error)) => Err(error),
                Err(failure) => Err(failure.error(Code::TRY_AGAIN_LATER)),
            },
            Call::Status => match self.ask(question) {
                Ok(Answer::Done { .. }) => Ok(None),
                Ok(Answer::Refused(error)) => Err(error),
                Err(failure) => Err(failure.error(Code::NOT_AVAILABLE)),
            },
        }
    }

    /// Undoes an ADD that the daemon has done and the runtime does not know of.
    ///
    /// # Errors
    /// It can neither be undone nor be left for later.
    pub(crate) fn take_back(&self, add: &Question) -> Result<(), Error> {
        match &add.call {
            Call::Add { attachment, netns, .. } => self.del(&del_of(add, attachment, netns), attachment, Some(netns)),
            Call::Del { .. } | Call::Check { .. } | Call::Gc { .. } | Call::Status => Ok(()),
        }
    }

    fn add(&self, question: &Question, attachment: &Attachment, previous: &AddResult) -> Result<Value, Error> {
        let tombstone = Tombstone::of(&question.conf.tombstones, attachment);
        self.deliver_first(question, &tombstone)?;
        let version = question.conf.version;
        let done = match self.ask(question) {
            Ok(Answer::Refused(error)) => return Err(error),
            Ok(Answer::Done { result: None }) => Ok(previous.clone()),
            Ok(Answer::Done { result: Some(result) }) => AddResult::read(result, version)
                .map_err(|error| unanswered(question, format!("the result in its answer cannot be used: {error}"))),
            Err(failure) => Err(failure),
        };
        done.map(|result| result.into_version(version).into_json()).map_err(|failure| {
            let mut error = failure.error(Code::TRY_AGAIN_LATER);
            if let (Failure::Unanswered { .. }, Call::Add { netns, .. }) = (&failure, &question.call)
                && let Err(cause) = tombstone.write(Some(netns))
            {
                // the runtime follows a failed ADD with a DEL: this one is for those that do not
                error.details.push_str(&format!("; nor can {} be written: {cause}", tombstone.path().display()));
            }
            error
        })
    }

    /// A DEL that waits comes before a new ADD of the same name: replayed later it would take the wrong one.
    fn deliver_first(&self, add: &Question, tombstone: &Tombstone<'_>) -> Result<(), Error> {
        let unusable = |cause: io::Error| {
            let details = format!("{}: {cause}", tombstone.path().display());
            Error::new(Code::IO_FAILURE, "the folder of tombstones cannot be used, and DEL will need it", details)
        };
        if !tombstone.is_there().map_err(unusable)? {
            return Ok(());
        }
        let Call::Add { attachment, netns, .. } = &add.call else { return Ok(()) };
        match self.ask(&del_of(add, attachment, netns)) {
            Ok(Answer::Done { .. }) => tombstone.remove().map_err(unusable),
            Ok(Answer::Refused(error)) => Err(error),
            Err(failure) => Err(failure.error(Code::TRY_AGAIN_LATER)),
        }
    }

    fn del(&self, question: &Question, attachment: &Attachment, netns: Option<&str>) -> Result<(), Error> {
        let tombstone = Tombstone::of(&question.conf.tombstones, attachment);
        let reason = match self.ask(question) {
            Ok(Answer::Done { .. }) => {
                if let Err(error) = tombstone.remove() {
                    // replayed, it does nothing
                    log(&format!("{} is done with and cannot be removed: {error}", tombstone.path().display()));
                }
                return Ok(());
            }
            Ok(Answer::Refused(error)) if error.code == Code::TRY_AGAIN_LATER => error,
            Ok(Answer::Refused(error)) => return Err(error),
            Err(failure) => failure.error(Code::TRY_AGAIN_LATER),
        };
        let path = tombstone.path();
        if tombstone.is_for_nobody() {
            log(&format!("DEL of {attachment} is done: Weft is gone from this node, {reason}"));
            return Ok(());
        }
        match tombstone.write(netns) {
            Ok(()) => {
                log(&format!("DEL of {attachment} is left in {} for meshd: {reason}", path.display()));
                Ok(())
            }
            Err(cause) => Err(Error::new(
                Code::IO_FAILURE,
                "DEL can neither be done now nor be left for later",
                format!("{reason}; and {} cannot be written: {cause}", path.display()),
            )),
        }
    }

    fn ask(&self, question: &Question) -> Result<Answer, Failure> {
        let socket = question.conf.socket.clone();
        let line =
            question.encode().map_err(|error| Failure::Unasked { socket: socket.clone(), cause: error.into() })?;
        let patience = patience(question);
        let deadline = self.started + patience;
        match within(deadline, move || converse(&socket, &line)) {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(unanswered(question, format!("no answer came within {:.1} s", patience.as_secs_f64())))
            }
            Err(cause) => Err(Failure::Unasked { socket: question.conf.socket.clone(), cause }),
        }
    }
}

/// How long after its start a call may wait for the daemon. `timeoutSeconds` is for the whole of an ADD: a tenth is kept for
/// what comes after. Nobody waits so long for the others, and runtimes ask STATUS every few seconds.
fn patience(question: &Question) -> Duration {
    let whole = question.conf.timeout * 9 / 10;
    match question.call {
        Call::Add { .. } | Call::Gc { .. } => whole,
        Call::Del { .. } | Call::Check { .. } => whole / 2,
        Call::Status => whole / 4,
    }
}

fn converse(socket: &Path, line: &[u8]) -> Result<Answer, Failure> {
    let unasked = |cause| Failure::Unasked { socket: socket.to_owned(), cause };
    let unanswered = |cause| Failure::Unanswered { socket: socket.to_owned(), cause };
    let mut stream = UnixStream::connect(socket).map_err(unasked)?;
    // the line's end is its last byte: without it the daemon has no question
    stream.write_all(line).map_err(unasked)?;
    let mut answer = Vec::new();
    let limit = u64::try_from(LINE_LENGTH_MAX).unwrap_or(u64::MAX);
    BufReader::new(stream.take(limit))
        .read_until(b'\n', &mut answer)
        .map_err(|error| unanswered(format!("its answer cannot be read: {error}")))?;
    match answer.last() {
        Some(b'\n') => {
            Answer::decode(&answer).map_err(|error| unanswered(format!("what it said cannot be used: {error}")))
        }
        Some(_) if answer.len() >= LINE_LENGTH_MAX => {
            Err(unanswered(format!("its answer is longer than {LINE_LENGTH_MAX} bytes")))
        }
        Some(_) => Err(unanswered("it hung up in the middle of its answer".to_owned())),
        None => Err(unanswered("it hung up without an answer".to_owned())),
    }
}

fn unanswered(question: &Question, cause: String) -> Failure {
    Failure::Unanswered { socket: question.conf.socket.clone(), cause }
}

fn del_of(add: &Question, attachment: &Attachment, netns: &str) -> Question {
    let call = Call::Del { attachment: attachment.clone(), netns: Some(netns.to_owned()), previous: None };
    Question { call, args: add.args.clone(), conf: add.conf.clone() }
}

/// What a question is about, for a message.
pub(crate) fn subject(question: &Question) -> String {
    question.attachment().map_or_else(|| question.verb().as_str().to_owned(), ToString::to_string)
}

impl Failure {
    fn error(&self, code: Code) -> Error {
        Error::new(code, "meshd on this node does not answer", self.to_string())
    }
}

/// What was tried and what to check, for whoever reads the pod's events.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked { socket, cause } => {
                let (socket, kind) = (socket.display(), cause.kind());
                if kind == io::ErrorKind::NotFound {
                    write!(f, "there is no socket {socket}: start `meshd node` on this node, or correct ")?;
                    f.write_str("`socket` in the network configuration list")
                } else if kind == io::ErrorKind::ConnectionRefused {
                    write!(
                        f,
                        "nobody listens on {socket}: `meshd node` on this node has ended, start it and read its log"
                    )
                } else if kind == io::ErrorKind::PermissionDenied {
                    write!(f, "the socket {socket} may not be used by this user: run the container runtime as root")
                } else {
                    write!(f, "the socket {socket} cannot be used: {cause}; is `meshd node` running on this node?")
                }
            }
            Self::Unanswered { socket, cause } => write!(
                f,
                "`meshd node` was asked over {}, and {cause}: it may be stopped or overloaded, read its log on this node",
                socket.display()
            ),
        }
    }
}
