//! The CNI specification (1.1.0, section by section) as types, and the conversation between the plugin and the daemon.
//!
//! It is not a CNI library: nothing here reads the environment, opens a file or a socket, or makes an interface. Bytes
//! and variables come in, typed questions and JSON documents go out; what is malformed, too long, too deep or too much
//! is refused with the code and the words that the specification asks for.
//!
//! The three types to know: [`Question`] is one checked call of a runtime, as the plugin asks it and the daemon reads
//! it; [`AddResult`] is a result or a `prevResult`, kept value by value and shown through a typed [`View`];
//! [`Error`] is the object printed when there is no result.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::ffi::OsString;
//!
//! let variables: BTreeMap<String, OsString> = [
//!     ("CNI_COMMAND", "ADD"),
//!     ("CNI_CONTAINERID", "c0ffee"),
//!     ("CNI_NETNS", "/run/netns/pod"),
//!     ("CNI_IFNAME", "eth0"),
//! ]
//! .map(|(name, value)| (name.to_owned(), value.into()))
//! .into();
//! let stdin = br#"{
//!     "cniVersion": "1.0.0", "name": "net", "type": "mesh-cni",
//!     "prevResult": {
//!         "cniVersion": "1.0.0",
//!         "interfaces": [{ "name": "veth1" }, { "name": "eth0", "sandbox": "/run/netns/pod" }],
//!         "ips": [{ "address": "10.1.0.5/24", "interface": 1 }]
//!     }
//! }"#;
//! let question = cni::Parameters::read(&variables)?.ask(stdin)?;
//! let cni::Call::Add { attachment, previous, .. } = &question.call else { unreachable!() };
//! assert_eq!(attachment.to_string(), "c0ffee@eth0");
//! assert_eq!(previous.view().addresses("eth0"), [std::net::Ipv4Addr::new(10, 1, 0, 5)]);
//! # Ok::<(), cni::RequestError>(())
//! ```

pub mod args;
pub mod attachment;
pub mod conf;
pub mod conflist;
pub mod document;
pub mod error;
pub mod request;
pub mod result;
pub mod verb;
pub mod version;
pub mod wire;

pub use args::Args;
pub use attachment::Attachment;
pub use conf::Conf;
pub use error::{Code, Error};
pub use request::{Call, Parameters, Question, RequestError};
pub use result::{AddResult, View};
pub use verb::Verb;
pub use version::Version;
pub use wire::Answer;
