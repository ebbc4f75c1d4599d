//! A call of the runtime: verb and arguments from the environment, the network configuration from stdin, both checked.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::args::{Args, ArgsError};
use crate::attachment::{Attachment, AttachmentError};
use crate::conf::{Conf, ConfError, PATH_LENGTH_MAX, is_path, version_of, wrong};
use crate::document::{CONFIGURATION, DocumentError, read_object};
use crate::error::{Code, Error as CniError};
use crate::result::{AddResult, ResultError};
use crate::verb::Verb;
use crate::version::Version;

/// What the environment says, checked for its verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    verb: Verb,
    container_id: String,
    ifname: String,
    netns: String,
    args: Args,
}

/// One call, whole and checked: what the plugin asks and the daemon answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// What is wanted, and of what.
    pub call: Call,
    /// `CNI_ARGS`.
    pub args: Args,
    /// The network configuration, without `prevResult`.
    pub conf: Conf,
}

/// What is wanted, and of what.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Attach.
    Add {
        /// What.
        attachment: Attachment,
        /// Path of the sandbox: absolute; whether it is there, and is a namespace, is the daemon's to find out.
        netns: String,
        /// What the plugins before us in the chain have made.
        previous: AddResult,
    },
    /// Detach; to be answered with success when there is nothing to detach.
    Del {
        /// What.
        attachment: Attachment,
        /// Path of the sandbox. Runtimes repeat a DEL without it, and the path may be gone.
        netns: Option<String>,
        /// The last ADD's result, where the runtime remembers it and it can be read.
        previous: Option<AddResult>,
    },
    /// Is it as ADD left it?
    Check {
        /// What.
        attachment: Attachment,
        /// Path of the sandbox.
        netns: String,
        /// The last ADD's result.
        previous: AddResult,
    },
    /// Remove all but these.
    Gc {
        /// The attachments that are still valid.
        valid: BTreeSet<Attachment>,
    },
    /// Could an ADD be served?
    Status,
}

/// What is wrong with a call.
#[derive(Debug, Error)]
pub enum RequestError {
    /// A variable that the verb needs is missing or empty.
    #[error("{name} is not set, and {needing} needs it")]
    Missing {
        /// The variable.
        name: &'static str,
        /// For what it is needed.
        needing: &'static str,
    },
    /// A variable that is not UTF-8.
    #[error("{name} is not UTF-8")]
    Encoding {
        /// The variable.
        name: &'static str,
    },
    /// No such verb.
    #[error("CNI_COMMAND {said:?} is none of ADD, DEL, CHECK, GC, STATUS, VERSION")]
    Command {
        /// What was said, cut at 40 characters.
        said: String,
    },
    /// `CNI_CONTAINERID` or `CNI_IFNAME`.
    #[error("{0}")]
    Attachment(#[source] AttachmentError),
    /// `CNI_NETNS`.
    #[error("CNI_NETNS {said:?} is not an absolute path")]
    Netns {
        /// What was said, cut at 80 characters.
        said: String,
    },
    /// `CNI_ARGS`.
    #[error("{0}")]
    Args(#[source] ArgsError),
    /// stdin.
    #[error("the network configuration on stdin cannot be read: {0}")]
    Document(#[source] DocumentError),
    /// The configuration is wrong.
    #[error("{0}")]
    Conf(#[source] ConfError),
    /// The version asked for has no such verb.
    #[error("{verb} came with version {since}, and the configuration is of {version}", verb = .verb.as_str())]
    VerbVersion {
        /// The verb.
        verb: Verb,
        /// The configuration's version.
        version: Version,
        /// The first that has it.
        since: Version,
    },
    /// ADD without `prevResult`.
    #[error("there is no prevResult: mesh-cni must be chained after a primary plugin")]
    Unchained,
    /// CHECK without `prevResult`.
    #[error("there is no prevResult, and CHECK needs that of the last ADD")]
    Unremembered,
    /// `prevResult` is wrong.
    #[error("prevResult cannot be used: {0}")]
    Previous(#[source] ResultError),
    /// GC without its list, or with one that is none.
    #[error("cni.dev/valid-attachments is {0}")]
    Valid(&'static str),
}

impl RequestError {
    /// The specification's code for it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Missing { .. }
            | Self::Encoding { .. }
            | Self::Command { .. }
            | Self::Attachment(_)
            | Self::Netns { .. }
            | Self::Args(_) => Code::INVALID_ENVIRONMENT,
            Self::Document(_) => Code::DECODING_FAILURE,
            Self::Conf(ConfError::Version(_) | ConfError::Unversioned)
            | Self::VerbVersion { .. }
            | Self::Previous(ResultError::Version(_)) => Code::INCOMPATIBLE_VERSION,
            Self::Conf(ConfError::Field { .. })
            | Self::Unchained
            | Self::Unremembered
            | Self::Previous(_)
            | Self::Valid(_) => Code::INVALID_CONFIG,
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Unchained => {
                "put mesh-cni into the list of plugins behind the one that gives the pod its interface and address"
            }
            Self::Conf(ConfError::Version(_) | ConfError::Unversioned) | Self::VerbVersion { .. } => {
                "change cniVersion in the network configuration list"
            }
            Self::Conf(ConfError::Field { .. }) => "correct it in the network configuration list",
            Self::Missing { .. }
            | Self::Encoding { .. }
            | Self::Command { .. }
            | Self::Attachment(_)
            | Self::Netns { .. }
            | Self::Args(_)
            | Self::Document(_)
            | Self::Unremembered
            | Self::Previous(_)
            | Self::Valid(_) => "",
        }
    }
}

impl From<RequestError> for CniError {
    fn from(error: RequestError) -> Self {
        Self::new(error.code(), error.to_string(), error.remedy())
    }
}

impl Parameters {
    /// Reads the `CNI_*` variables out of `variables` and checks those that the verb needs. Others may be among them.
    ///
    /// # Errors
    /// A variable is missing or bad, named in the message; all have code 4.
    pub fn read(variables: &BTreeMap<String, OsString>) -> Result<Self, RequestError> {
        let text = |name: &'static str| match variables.get(name).map(|value| value.to_str()) {
            None => Ok(String::new()),
            Some(Some(value)) => Ok(value.to_owned()),
            Some(None) => Err(RequestError::Encoding { name }),
        };
        let command = text("CNI_COMMAND")?;
        if command.is_empty() {
            return Err(RequestError::Missing { name: "CNI_COMMAND", needing: "every call" });
        }
        let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == command);
        let verb = verb.ok_or_else(|| RequestError::Command { said: command.chars().take(40).collect() })?;
        let mut parameters = Self {
            verb,
            container_id: String::new(),
            ifname: String::new(),
            netns: String::new(),
            args: Args::default(),
        };
        match verb {
            Verb::Gc | Verb::Status | Verb::Version => return Ok(parameters),
            Verb::Add | Verb::Check => {
                parameters.netns = text("CNI_NETNS")?;
                parameters.args = Args::read(&text("CNI_ARGS")?).map_err(RequestError::Args)?;
            }
            // a DEL must get through: what it can do without need not be right
            Verb::Del => {
                parameters.netns = text("CNI_NETNS").unwrap_or_default();
                parameters.args = Args::read(&text("CNI_ARGS").unwrap_or_default()).unwrap_or_default();
            }
        }
        parameters.container_id = text("CNI_CONTAINERID")?;
        parameters.ifname = text("CNI_IFNAME")?;
        parameters.attachment()?;
        if verb != Verb::Del {
            parameters.sandbox()?;
        }
        Ok(parameters)
    }

    /// The verb.
    #[must_use]
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// Adds the network configuration that was on stdin.
    ///
    /// # Errors
    /// It cannot be read, is wrong, or lacks what the verb needs. VERSION asks no question: [`version_answer`].
    pub fn ask(self, stdin: &[u8]) -> Result<Question, RequestError> {
        let fields = read_object(stdin, CONFIGURATION).map_err(RequestError::Document)?;
        self.ask_with(fields)
    }

    /// For what came over the wire: checked again, as by [`Parameters::read`].
    pub(crate) fn received(
        verb: Verb,
        container_id: String,
        ifname: String,
        netns: String,
        args: BTreeMap<String, String>,
    ) -> Result<Self, RequestError> {
        let args = Args::of_pairs(args).map_err(RequestError::Args)?;
        Ok(Self { verb, container_id, ifname, netns, args })
    }

    pub(crate) fn ask_with(self, fields: Map<String, Value>) -> Result<Question, RequestError> {
        let (conf, previous) = Conf::of(fields).map_err(RequestError::Conf)?;
        let (verb, since) = (self.verb, Version::introducing(self.verb));
        if conf.version < since {
            return Err(RequestError::VerbVersion { verb, version: conf.version, since });
        }
        let previous = |otherwise: RequestError| {
            AddResult::read(previous.ok_or(otherwise)?, conf.version).map_err(RequestError::Previous)
        };
        let call = match verb {
            Verb::Add => Call::Add {
                attachment: self.attachment()?,
                netns: self.sandbox()?.to_owned(),
                previous: previous(RequestError::Unchained)?,
            },
            Verb::Check => Call::Check {
                attachment: self.attachment()?,
                netns: self.sandbox()?.to_owned(),
                previous: previous(RequestError::Unremembered)?,
            },
            Verb::Del => Call::Del {
                attachment: self.attachment()?,
                netns: self.sandbox().ok().map(str::to_owned),
                previous: previous(RequestError::Unremembered).ok(),
            },
            Verb::Gc => Call::Gc { valid: valid_attachments(&conf.fields)? },
            Verb::Status => Call::Status,
            Verb::Version => return Err(RequestError::Command { said: verb.as_str().to_owned() }),
        };
        Ok(Question { call, args: self.args, conf })
    }

    fn attachment(&self) -> Result<Attachment, RequestError> {
        let given = [("CNI_CONTAINERID", &self.container_id), ("CNI_IFNAME", &self.ifname)];
        match given.into_iter().find(|(_, value)| value.is_empty()) {
            Some((name, _)) => Err(RequestError::Missing { name, needing: self.verb.as_str() }),
            None => Attachment::new(&self.container_id, &self.ifname).map_err(RequestError::Attachment),
        }
    }

    fn sandbox(&self) -> Result<&str, RequestError> {
        if self.netns.is_empty() {
            return Err(RequestError::Missing { name: "CNI_NETNS", needing: self.verb.as_str() });
        }
        if !is_path(&self.netns, PATH_LENGTH_MAX) {
            return Err(RequestError::Netns { said: self.netns.chars().take(80).collect() });
        }
        Ok(&self.netns)
    }
}

impl Question {
    /// Its verb.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self.call {
            Call::Add { .. } => Verb::Add,
            Call::Del { .. } => Verb::Del,
            Call::Check { .. } => Verb::Check,
            Call::Gc { .. } => Verb::Gc,
            Call::Status => Verb::Status,
        }
    }

    /// What it is about; `None` for GC and STATUS.
    #[must_use]
    pub fn attachment(&self) -> Option<&Attachment> {
        match &self.call {
            Call::Add { attachment, .. } | Call::Del { attachment, .. } | Call::Check { attachment, .. } => {
                Some(attachment)
            }
            Call::Gc { .. } | Call::Status => None,
        }
    }
}

/// What VERSION prints: the version on stdin said back (the newest, where nothing is on stdin) and all that are spoken.
///
/// # Errors
/// stdin has something else than an object with a version.
pub fn version_answer(stdin: &[u8]) -> Result<Value, RequestError> {
    let said = match read_object(stdin, CONFIGURATION) {
        Ok(fields) => match fields.get("cniVersion") {
            None => Version::NEWEST.as_str().to_owned(),
            // said back whether spoken or not: the caller wants to know which are
            Some(Value::String(said)) => said.clone(),
            Some(_) => return Err(RequestError::Conf(wrong(&fields, "cniVersion", "a string"))),
        },
        Err(DocumentError::Empty) => Version::NEWEST.as_str().to_owned(),
        Err(error) => return Err(RequestError::Document(error)),
    };
    Ok(serde_json::json!({ "cniVersion": said, "supportedVersions": Version::ALL }))
}

/// The version in which to print an error: the one that stdin says, where it can be read, or else the newest.
#[must_use]
pub fn version_for_errors(stdin: &[u8]) -> Version {
    let fields = read_object(stdin, CONFIGURATION).ok();
    fields.and_then(|fields| version_of(&fields).ok()).unwrap_or(Version::NEWEST)
}

/// The list of GC. `null` is how libcni writes an empty one; a missing one would remove everything by mistake.
fn valid_attachments(fields: &Map<String, Value>) -> Result<BTreeSet<Attachment>, RequestError> {
    let list = match fields.get("cni.dev/valid-attachments").or_else(|| fields.get("cni.dev/attachments")) {
        None => return Err(RequestError::Valid("missing: GC needs the list of what to keep")),
        Some(Value::Null) => return Ok(BTreeSet::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(RequestError::Valid("not a list")),
    };
    let mut valid = BTreeSet::new();
    for entry in list {
        let text = |name| entry.get(name).and_then(Value::as_str);
        let (Some(container_id), Some(ifname)) = (text("containerID"), text("ifname")) else {
            return Err(RequestError::Valid("not a list of objects with containerID and ifname"));
        };
        // what has no proper name was never attached by us: nothing is kept by keeping it
        valid.extend(Attachment::new(container_id, ifname));
    }
    Ok(valid)
}

#[cfg(test)]
mod tests;
