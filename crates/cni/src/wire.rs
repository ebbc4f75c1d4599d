//! The plugin–daemon conversation: one JSON line is asked and one answered, over a unix socket.
//!
//! ```text
//! {"version":1,"verb":"ADD","containerID":"c0ffee","ifname":"eth0","netns":"/run/netns/p","args":{…},"config":{…}}
//! {"ok":true,"result":{…}}
//! {"ok":false,"error":{"code":11,"msg":"…","details":"…"}}
//! ```
//!
//! `config` is the document of stdin, `prevResult` included. Either side drops the other's line over [`LINE`].

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::document::{DocumentError, LINE, read_object};
use crate::error::{Code, Error as CniError};
use crate::request::{Call, Parameters, Question, RequestError};
use crate::result::AddResult;
use crate::verb::Verb;

/// The version of this conversation.
pub const WIRE_VERSION: u64 = 1;
/// Longest line, in bytes, its end included.
pub const LINE_LENGTH_MAX: usize = LINE.bytes_max;

/// What the daemon says.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Done. `result` replaces that of ADD; without one the plugin prints `prevResult`.
    Done {
        /// What to print instead of `prevResult`.
        result: Option<Value>,
    },
    /// Not done: the error to print.
    Refused(CniError),
}

/// Why a line is no question.
#[derive(Debug, Error)]
pub enum QuestionError {
    /// No JSON object, or one too large.
    #[error("the plugin's question cannot be read: {0}")]
    Document(#[source] DocumentError),
    /// A field of the conversation is missing or of another kind.
    #[error("the plugin's question has no proper {field}")]
    Field {
        /// Which.
        field: &'static str,
    },
    /// Another version of the conversation.
    #[error("the plugin speaks version {said} of the socket protocol and the daemon version {WIRE_VERSION}")]
    Version {
        /// What it says.
        said: u64,
    },
    /// What it carries is wrong.
    #[error("{0}")]
    Request(#[source] RequestError),
}

/// Why a line cannot be carried, or is no answer.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// No JSON object, or one too large.
    #[error("it is no answer: {0}")]
    Document(#[source] DocumentError),
    /// Neither done nor refused, or refused without saying why.
    #[error("it is no answer: {field} is missing or of the wrong kind")]
    Field {
        /// Which.
        field: &'static str,
    },
}

impl From<QuestionError> for CniError {
    fn from(error: QuestionError) -> Self {
        match error {
            QuestionError::Request(error) => error.into(),
            QuestionError::Version { .. } => Self::new(
                Code::TRY_AGAIN_LATER,
                error.to_string(),
                "install the mesh-cni of the same release as meshd on this node",
            ),
            QuestionError::Document(_) | QuestionError::Field { .. } => {
                Self::new(Code::DECODING_FAILURE, error.to_string(), "")
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    version: u64,
    verb: Verb,
    #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
    container_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ifname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<&'a str>,
    args: &'a BTreeMap<String, String>,
    config: Config<'a>,
}

/// A configuration with its `prevResult` put back.
struct Config<'a> {
    fields: &'a Map<String, Value>,
    previous: Option<&'a AddResult>,
}

impl Serialize for Config<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut config = serializer.serialize_map(None)?;
        for (key, value) in self.fields {
            config.serialize_entry(key, value)?;
        }
        if let Some(previous) = self.previous {
            config.serialize_entry("prevResult", previous.fields())?;
        }
        config.end()
    }
}

impl Question {
    /// The line to send, with its end.
    ///
    /// # Errors
    /// None for what came from [`Parameters::ask`]; the type leaves `serde_json` its say.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let (netns, previous) = match &self.call {
            Call::Add { netns, previous, .. } | Call::Check { netns, previous, .. } => {
                (Some(netns.as_str()), Some(previous))
            }
            Call::Del { netns, previous, .. } => (netns.as_deref(), previous.as_ref()),
            Call::Gc { .. } | Call::Status => (None, None),
        };
        let attachment = self.attachment();
        line(&Line {
            version: WIRE_VERSION,
            verb: self.verb(),
            container_id: attachment.map(|attachment| attachment.container_id()),
            ifname: attachment.map(|attachment| attachment.ifname()),
            netns,
            args: self.args.pairs(),
            config: Config { fields: &self.conf.fields, previous },
        })
    }

    /// Reads a line, with or without its end, and checks all that it carries as if it had come from a runtime.
    ///
    /// # Errors
    /// It is no question. As an [`Error`](crate::Error) it is the answer to give.
    pub fn decode(line: &[u8]) -> Result<Self, QuestionError> {
        let mut fields = read_object(line, LINE).map_err(QuestionError::Document)?;
        let version = fields.get("version").and_then(Value::as_u64).ok_or(QuestionError::Field { field: "version" })?;
        if version != WIRE_VERSION {
            return Err(QuestionError::Version { said: version });
        }
        let verb = take::<Verb>(&mut fields, "verb")?.ok_or(QuestionError::Field { field: "verb" })?;
        let container_id = take(&mut fields, "containerID")?.unwrap_or_default();
        let ifname = take(&mut fields, "ifname")?.unwrap_or_default();
        let netns = take(&mut fields, "netns")?.unwrap_or_default();
        let args = take(&mut fields, "args")?.unwrap_or_default();
        let Some(Value::Object(config)) = fields.remove("config") else {
            return Err(QuestionError::Field { field: "config" });
        };
        let parameters = Parameters::received(verb, container_id, ifname, netns, args);
        parameters.and_then(|parameters| parameters.ask_with(config)).map_err(QuestionError::Request)
    }
}

impl Answer {
    /// The line to send, with its end.
    ///
    /// # Errors
    /// None in practice; the type leaves `serde_json` its say.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        line(&match self {
            Self::Done { result: None } => serde_json::json!({ "ok": true }),
            Self::Done { result: Some(result) } => serde_json::json!({ "ok": true, "result": result }),
            Self::Refused(error) => serde_json::json!({ "ok": false, "error": error }),
        })
    }

    /// Reads a line, with or without its end.
    ///
    /// # Errors
    /// It is no answer.
    pub fn decode(line: &[u8]) -> Result<Self, AnswerError> {
        let mut fields = read_object(line, LINE).map_err(AnswerError::Document)?;
        match fields.get("ok").and_then(Value::as_bool) {
            None => Err(AnswerError::Field { field: "ok" }),
            Some(true) => match fields.remove("result") {
                None | Some(Value::Null) => Ok(Self::Done { result: None }),
                Some(result @ Value::Object(_)) => Ok(Self::Done { result: Some(result) }),
                Some(_) => Err(AnswerError::Field { field: "result" }),
            },
            Some(false) => {
                let error = fields.remove("error").and_then(|error| serde_json::from_value(error).ok());
                error.map(Self::Refused).ok_or(AnswerError::Field { field: "error" })
            }
        }
    }
}

/// Compact JSON has no line end of its own.
fn line(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn take<T: for<'de> Deserialize<'de>>(
    fields: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<T>, QuestionError> {
    match fields.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value).ok().map(Some).ok_or(QuestionError::Field { field }),
    }
}

#[cfg(test)]
mod tests;
