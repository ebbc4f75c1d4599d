//! Objects that earlier builds wrote are read, and believed as they were then: what is signed in them has the same bytes.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use identity::{CLOCK_SKEW, SignedBinding, TrustBundle, UnixTime, Verifier, verify_spec};

use super::api::{MeshEndpointSlice, MeshNode};
use super::collection::{Change, Collection};
use super::{Manifest, convert};

const BEFORE_0024: &str = include_str!("kept/before_0024.yaml");
/// When that was written.
const THEN: UnixTime = UnixTime(1_795_308_003);

/// What comes of the manifests by the door of both back ends.
struct Kept {
    verifier: Verifier,
    node: MeshNode,
    slice: MeshEndpointSlice,
}

fn read(text: &str) -> Kept {
    let mut folder = Collection::default();
    folder.handle_file(Path::new("kept.yaml"), text, 0);
    assert!(folder.refusals().is_empty(), "{:?}", folder.refusals());
    let (mut verifier, mut node, mut slice) = (None, None, None);
    for change in folder.poll_changes() {
        match change {
            Change::Apply(Manifest::MeshTrust(trust)) => {
                let spec = trust.spec;
                let domain = spec.trust_domain.parse().unwrap();
                let bundle = TrustBundle::from_pem(domain, &spec.root, &spec.intermediate).unwrap();
                verifier = Some(bundle.verify(bundle.root_fingerprint(), THEN).unwrap());
            }
            Change::Apply(Manifest::MeshNode(it)) => node = Some(it),
            Change::Apply(Manifest::MeshEndpointSlice(it)) => slice = Some(it),
            Change::Apply(Manifest::Plain(object)) => panic!("{object:?}"),
            Change::Delete(key) => panic!("{key:?}"),
        }
    }
    Kept { verifier: verifier.unwrap(), node: *node.unwrap(), slice: slice.unwrap() }
}

impl Kept {
    fn is_report_signed(&self) -> bool {
        let spec = &self.node.spec;
        let signature = BASE64.decode(&spec.signature).unwrap();
        verify_spec(&spec.credential_key().unwrap(), &self.slice.spec.node, &spec.signed_bytes(), &signature).is_ok()
    }
}

#[test]
fn up_02_what_was_written_before_decision_0024_is_believed() {
    let kept = read(BEFORE_0024);
    assert!(kept.is_report_signed(), "a report of an earlier daemon");
    assert!(kept.slice.is_signed_by(&kept.verifier), "a slice of an earlier controller");
    assert_eq!((kept.slice.spec.endpoints.len(), kept.slice.spec.bindings.len()), (6, 0));
    let (node, uid) = (&kept.slice.spec.node, kept.node.spec.node_uid.as_str());
    let bindings = &kept.node.status.bindings;
    for issued in bindings {
        let signed = SignedBinding::decode(&issued.binding).unwrap();
        kept.verifier.verify_binding_of((node, uid), &signed, THEN, CLOCK_SKEW).unwrap();
    }
    assert_eq!(bindings.len(), kept.node.spec.keys.len(), "each key is bound");
    assert_eq!(kept.node.to_view().unwrap().keys.len(), 4);
}

#[test]
fn an_endpoint_without_an_address_is_refused_with_its_name() {
    let slice = serde_json::json!({"metadata": {"name": "n1"}, "spec": {
        "node": "n1", "nodeUID": "u", "revision": 1, "signature": "s",
        "endpoints": [{"ips": ["10.1.0.2"], "enforced": true, "name": "a", "uid": "u"},
                      {"enforced": true, "name": "b", "uid": "v"}],
    }});
    let key = plan::ObjectKey { kind: "MeshEndpointSlice", namespace: String::new(), name: "n1".to_owned() };
    let refused = convert::manifest(&key, &slice, 0).unwrap_err();
    assert_eq!(refused, "MeshEndpointSlice n1: the endpoint of `b` has no address");
}

#[test]
fn up_05_what_a_later_build_adds_beside_what_is_signed_is_left_alone() {
    let status = BEFORE_0024.replace("  joined: true\n", "  joined: true\n  mood: [good]\n");
    let later = status.replace("    svid: \"\"\n", "    svid: \"\"\n    colour: blue\n");
    assert!(later.contains("mood") && later.contains("colour"));
    let kept = read(&later);
    assert!(kept.is_report_signed() && kept.slice.is_signed_by(&kept.verifier));
    assert_eq!(kept.node.status.bindings.len(), 4);
}
