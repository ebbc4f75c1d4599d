//! One plugin's network configuration: the fields that we read, and all the others as they came.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::attachment::is_name;
use crate::version::{Version, VersionError};

/// Where the daemon listens unless the configuration says otherwise.
pub const SOCKET_DEFAULT: &str = "/run/weft/cni.sock";
/// Where a DEL that found no daemon is left unless the configuration says otherwise.
pub const TOMBSTONES_DEFAULT: &str = "/var/lib/weft/tombstones";
/// How long an ADD may take unless the configuration says otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// The longest that an ADD may be told to take. Kubelet gives up on a runtime's call after two minutes.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Longest path of a unix socket: `sun_path` without its NUL (linux/un.h).
const SOCKET_PATH_LENGTH_MAX: usize = 107;
/// PATH_MAX without its NUL (linux/limits.h).
pub(crate) const PATH_LENGTH_MAX: usize = 4095;

/// The network configuration of one call, without its `prevResult`.
#[derive(Clone, Debug, PartialEq)]
pub struct Conf {
    /// `cniVersion`: the version in which the result is given.
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// `socket`: path of the daemon's socket. Absolute, at most 107 bytes. Default [`SOCKET_DEFAULT`].
    pub socket: PathBuf,
    /// `tombstones`: the folder in which a DEL waits that found no daemon. Absolute. Default [`TOMBSTONES_DEFAULT`].
    pub tombstones: PathBuf,
    /// `timeoutSeconds`: how long an ADD may take, all in all. 1 to 60 s, default 10 s. Too short, and a busy node's
    /// ADDs fail with code 11; too long, and a dead daemon holds up the runtime.
    pub timeout: Duration,
    /// `spare`: whether this entry stands beside another one of ours, so that the runtime calls us twice where both are read, and
    /// once where one is lost. An ADD that the other entry has brought is passed through. Default false.
    pub spare: bool,
    /// The whole document, save `prevResult`.
    pub fields: Map<String, Value>,
}

/// What is wrong with a network configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfError {
    /// Of no version that it says. By the specification that is 0.1.0, and that is not spoken.
    #[error("cniVersion is missing, which means 0.1.0, and that is not spoken; these are: {}", Version::spoken())]
    Unversioned,
    /// Of a version that is not spoken.
    #[error("cniVersion: {0}")]
    Version(#[source] VersionError),
    /// A field is of the wrong kind or out of its range.
    #[error("{field} is {said}: {wanted} is expected")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is, as JSON, cut at 80 characters.
        said: String,
        /// What it should be.
        wanted: &'static str,
    },
}

impl Conf {
    /// Reads what concerns us and keeps the rest. Gives back `prevResult`, where there is one.
    ///
    /// # Errors
    /// The version is not spoken, the network has no proper name, or a field of ours is wrong.
    pub(crate) fn of(mut fields: Map<String, Value>) -> Result<(Self, Option<Value>), ConfError> {
        let version = version_of(&fields)?;
        let previous = fields.shift_remove("prevResult").filter(|found| !is_empty(found));
        let name = fields.get("name").and_then(Value::as_str).filter(|name| is_name(name));
        let name =
            name.ok_or_else(|| wrong(&fields, "name", "a network name of a-z, A-Z, 0-9, '_', '.' and '-'"))?.to_owned();
        let socket =
            path(&fields, "socket", SOCKET_DEFAULT, SOCKET_PATH_LENGTH_MAX, "an absolute path of at most 107 bytes")?;
        let tombstones = path(&fields, "tombstones", TOMBSTONES_DEFAULT, PATH_LENGTH_MAX, "an absolute path")?;
        let timeout = match fields.get("timeoutSeconds") {
            None | Some(Value::Null) => TIMEOUT_DEFAULT,
            Some(said) => {
                let seconds = said.as_u64().filter(|seconds| (1..=TIMEOUT_MAX.as_secs()).contains(seconds));
                let seconds = seconds.ok_or_else(|| wrong(&fields, "timeoutSeconds", "a whole number from 1 to 60"))?;
                Duration::from_secs(seconds)
            }
        };
        let spare = match fields.get("spare") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(said)) => *said,
            Some(_) => return Err(wrong(&fields, "spare", "true or false")),
        };
        Ok((Self { version, name, socket, tombstones, timeout, spare, fields }, previous))
    }
}

/// The version that a configuration says.
///
/// # Errors
/// It is not spoken, or not said.
pub(crate) fn version_of(fields: &Map<String, Value>) -> Result<Version, ConfError> {
    match fields.get("cniVersion") {
        None => Err(ConfError::Unversioned),
        Some(Value::String(said)) => said.parse().map_err(ConfError::Version),
        Some(_) => Err(wrong(fields, "cniVersion", "a string")),
    }
}

/// Some runtimes say "no result" by an empty object.
fn is_empty(result: &Value) -> bool {
    result.is_null() || result.as_object().is_some_and(Map::is_empty)
}

fn path(
    fields: &Map<String, Value>,
    field: &'static str,
    default: &str,
    length_max: usize,
    wanted: &'static str,
) -> Result<PathBuf, ConfError> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(default.into()),
        Some(Value::String(said)) if is_path(said, length_max) => Ok(said.into()),
        Some(_) => Err(wrong(fields, field, wanted)),
    }
}

/// Whether `text` can be an absolute path.
pub(crate) fn is_path(text: &str, length_max: usize) -> bool {
    text.starts_with('/') && text.len() <= length_max && !text.contains('\0')
}

/// A field that is not what it should be.
pub(crate) fn wrong(fields: &Map<String, Value>, field: &'static str, wanted: &'static str) -> ConfError {
    let said =
        fields.get(field).map_or_else(|| "missing".to_owned(), |said| said.to_string().chars().take(80).collect());
    ConfError::Field { field, said, wanted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(document: Value) -> Result<(Conf, Option<Value>), ConfError> {
        let Value::Object(fields) = document else { panic!("an object") };
        Conf::of(fields)
    }

    #[test]
    fn fields_have_defaults() {
        let (conf, previous) = read(json!({ "cniVersion": "1.1.0", "name": "net", "type": "mesh-cni" })).unwrap();
        assert_eq!(conf.socket.to_str(), Some(SOCKET_DEFAULT));
        assert_eq!(conf.tombstones.to_str(), Some(TOMBSTONES_DEFAULT));
        assert_eq!((conf.timeout, conf.spare, previous), (TIMEOUT_DEFAULT, false, None));
        let spare = json!({ "cniVersion": "1.1.0", "name": "net", "type": "mesh-cni", "spare": true });
        assert!(read(spare).unwrap().0.spare);
    }

    #[test]
    fn unknown_fields_stay_and_prev_result_is_taken_out() {
        let document = json!({
            "cniVersion": "0.4.0", "name": "net", "zebra": [1, { "b": 1, "a": null }], "prevResult": { "ips": [] },
            "socket": "/x.sock", "runtimeConfig": {}, "timeoutSeconds": 60,
        });
        let (conf, previous) = read(document).unwrap();
        assert_eq!((conf.version, conf.timeout), (Version::V0_4_0, TIMEOUT_MAX));
        assert_eq!(previous, Some(json!({ "ips": [] })));
        let keys: Vec<_> = conf.fields.keys().map(String::as_str).collect();
        assert_eq!(keys, ["cniVersion", "name", "zebra", "socket", "runtimeConfig", "timeoutSeconds"]);
    }

    #[test]
    fn an_empty_prev_result_is_none() {
        for empty in [json!(null), json!({})] {
            assert_eq!(read(json!({ "cniVersion": "1.1.0", "name": "n", "prevResult": empty })).unwrap().1, None);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_value() {
        let cases = [
            (
                json!({ "name": "n" }),
                "cniVersion is missing, which means 0.1.0, and that is not spoken; these are: 0.3.1, 0.4.0, 1.0.0, 1.1.0",
            ),
            (json!({ "cniVersion": 1, "name": "n" }), "cniVersion is 1: a string is expected"),
            (
                json!({ "cniVersion": "1.1.0" }),
                "name is missing: a network name of a-z, A-Z, 0-9, '_', '.' and '-' is expected",
            ),
            (
                json!({ "cniVersion": "1.1.0", "name": "a/b" }),
                "name is \"a/b\": a network name of a-z, A-Z, 0-9, '_', '.' and '-' is expected",
            ),
            (
                json!({ "cniVersion": "1.1.0", "name": "n", "socket": "run/x" }),
                "socket is \"run/x\": an absolute path of at most 107 bytes is expected",
            ),
            (
                json!({ "cniVersion": "1.1.0", "name": "n", "tombstones": "/a\0b" }),
                "tombstones is \"/a\\u0000b\": an absolute path is expected",
            ),
            (
                json!({ "cniVersion": "1.1.0", "name": "n", "timeoutSeconds": 0 }),
                "timeoutSeconds is 0: a whole number from 1 to 60 is expected",
            ),
            (
                json!({ "cniVersion": "1.1.0", "name": "n", "timeoutSeconds": "10" }),
                "timeoutSeconds is \"10\": a whole number from 1 to 60 is expected",
            ),
            (
                json!({ "cniVersion": "1.1.0", "name": "n", "spare": "yes" }),
                "spare is \"yes\": true or false is expected",
            ),
        ];
        for (document, message) in cases {
            assert_eq!(read(document).unwrap_err().to_string(), message);
        }
    }
}
