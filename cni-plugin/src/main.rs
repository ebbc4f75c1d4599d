//! mesh-cni: carries a runtime's CNI call to meshd on this node, and the answer back to stdout.

mod courier;
mod patience;
mod tombstone;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cni::document::CONFIGURATION;
use cni::request::{version_answer, version_for_errors};
use cni::{Code, Error, Parameters, Question, Verb, Version};
use serde_json::Value;

use courier::Courier;
use patience::within;

/// How long a runtime may take to write the configuration and close stdin.
const STDIN_PATIENCE: Duration = Duration::from_secs(3);
/// How long a runtime may take to read what is printed, once all else is done.
const STDOUT_PATIENCE: Duration = Duration::from_secs(1);
/// With none of these somebody at a terminal wants to know what this program is.
const CALL_VARIABLES: [&str; 4] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"];

fn main() -> ExitCode {
    let started = Instant::now();
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "--version") {
        return exit_code(io::stdout().write_all(about().as_bytes()).is_ok());
    }
    let variables: BTreeMap<String, OsString> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with("CNI_"))
        .collect();
    if !CALL_VARIABLES.iter().any(|name| variables.contains_key(*name)) {
        return exit_code(io::stderr().write_all(about().as_bytes()).is_ok());
    }
    exit_code(run(started, &variables))
}

/// The whole call. Answers whether it succeeded; all that there is to say is said then.
fn run(started: Instant, variables: &BTreeMap<String, OsString>) -> bool {
    let parameters = match Parameters::read(variables) {
        Ok(parameters) => parameters,
        Err(error) => return fail(Version::NEWEST, &error.into()),
    };
    let stdin = match read_stdin(parameters.verb()) {
        Ok(stdin) => stdin,
        Err(error) => return fail(Version::NEWEST, &error),
    };
    if parameters.verb() == Verb::Version {
        return match version_answer(&stdin) {
            Ok(answer) => print(&answer).is_ok(),
            Err(error) => fail(version_for_errors(&stdin), &error.into()),
        };
    }
    let question = match parameters.ask(&stdin) {
        Ok(question) => question,
        Err(error) => return fail(version_for_errors(&stdin), &error.into()),
    };
    match Courier::new(started).carry(&question) {
        Ok(None) => true,
        Ok(Some(result)) => print(&result).is_ok() || undo(&question),
        Err(error) => fail(question.conf.version, &error),
    }
}

/// The runtime has not got the result of an ADD: for it nothing is attached, so that nothing may be. Answers `false`.
fn undo(question: &Question) -> bool {
    log(&format!("the result of ADD could not be written to stdout: taking {} back", courier::subject(question)));
    if let Err(error) = Courier::new(Instant::now()).take_back(question) {
        log(&format!("taking it back: {error}"));
    }
    false
}

/// All of stdin, but no more than one byte over what is accepted.
fn read_stdin(verb: Verb) -> Result<Vec<u8>, Error> {
    // VERSION by hand needs no configuration
    if verb == Verb::Version && io::stdin().is_terminal() {
        return Ok(Vec::new());
    }
    let limit = u64::try_from(CONFIGURATION.bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let read = within(Instant::now() + STDIN_PATIENCE, move || {
        let mut bytes = Vec::new();
        io::stdin().lock().take(limit).read_to_end(&mut bytes).map(|_length| bytes)
    });
    read.and_then(|read| read).map_err(|error| {
        let late = error.kind() == io::ErrorKind::TimedOut;
        let details =
            if late { format!("it was not closed within {} s", STDIN_PATIENCE.as_secs()) } else { error.to_string() };
        Error::new(Code::IO_FAILURE, "the network configuration cannot be read from stdin", details)
    })
}

fn fail(version: Version, error: &Error) -> bool {
    if let Err(unprinted) = print(&error.to_json(version)) {
        log(&format!("{error} (which could not be written to stdout: {unprinted})"));
    }
    false
}

/// Prints a document; whether the runtime has really got it only it knows, but all of it is in its pipe.
fn print(document: &Value) -> io::Result<()> {
    let text = format!("{document:#}\n");
    within(Instant::now() + STDOUT_PATIENCE, move || {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    })?
}

/// stdout is the runtime's: what people should read goes to stderr.
fn log(text: &str) {
    // nobody is left to tell when stderr is gone too
    drop(writeln!(io::stderr(), "mesh-cni: {text}"));
}

fn about() -> String {
    format!(
        "mesh-cni {}: the CNI plugin of Weft, to be chained after a primary plugin; it carries calls to meshd on this node\n\
         CNI protocol versions supported: {}\n",
        env!("CARGO_PKG_VERSION"),
        Version::spoken(),
    )
}

fn exit_code(success: bool) -> ExitCode {
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
