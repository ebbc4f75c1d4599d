//! A node's report as a daemon writes it, by somebody else's credential.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use identity::{NodeCredential, NodeName};
use ring::rand::SystemRandom;

/// A credential of one's own.
pub struct Reporter(NodeCredential);

impl Reporter {
    /// A fresh one.
    pub fn new() -> Self {
        Self(NodeCredential::generate(&SystemRandom::new()).expect("the kernel has random numbers"))
    }

    /// The `spec` of a signed report. `said` is what stands between the credential and the sequence: the fields `endpoints`,
    /// `addresses`, `keys`, `attachments` and `observedRevision` in this order, as they are signed.
    pub fn spec(&self, node: &str, uid: &str, said: &str, sequence: u64) -> String {
        let credential = BASE64.encode(self.0.public_key());
        let spec = format!(r#"{{"nodeUID":"{uid}","credential":"{credential}",{said},"sequence":{sequence}"#);
        let signature = self.0.sign_spec(&NodeName(node.to_owned()), format!("{spec}}}").as_bytes());
        format!(r#"{spec},"signature":"{}"}}"#, BASE64.encode(signature))
    }
}

/// A key that is asked for, as it stands in a report: `number` makes it another than the rest.
pub fn key(identity: &str, epoch: u64, number: u64) -> String {
    // no public key of a few small numbers is one of the few that no secret comes of
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    let bytes = BASE64.encode(bytes);
    format!(r#"{{"identity":"{identity}","epoch":{epoch},"publicKey":"{bytes}","svidKey":"{bytes}"}}"#)
}

/// A workload that is said to be attached.
pub fn attachment(namespace: &str, pod: &str, uid: &str, ips: &[String]) -> String {
    let ips = ips.iter().map(|ip| format!("\"{ip}\"")).collect::<Vec<_>>().join(",");
    format!(r#"{{"namespace":"{namespace}","pod":"{pod}","uid":"{uid}","ips":[{ips}]}}"#)
}
