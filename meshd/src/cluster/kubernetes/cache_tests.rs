//! The last known view: written, read back the same, and refused where it cannot be believed.

use super::super::object::{AUTHORIZATION_POLICY, MESH_ENDPOINT_SLICE, MESH_NODE, MESH_TRUST};
use super::*;
use crate::controller::ca::EmbeddedCa;
use crate::controller::issuer::Issuer as _;

const NOW: UnixTime = UnixTime(1_800_000_000);

/// A folder with a state file's place, and a trust root.
struct World {
    dir: tempfile::TempDir,
    ca: EmbeddedCa,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = EmbeddedCa::open(&dir.path().join("ca"), &"td".parse().unwrap(), NOW).unwrap();
        Self { dir, ca }
    }

    fn file(&self, owner: &str) -> ViewFile {
        ViewFile::new(self.dir.path(), owner, Some(self.ca.bundle().root_fingerprint()))
    }

    fn trust(&self) -> (KindName, Value) {
        let bundle = self.ca.bundle();
        let spec = json!({"trustDomain": "td", "root": bundle.root_pem(), "intermediate": bundle.intermediate_pem()});
        (MESH_TRUST, json!({"metadata": {"name": "local"}, "spec": spec}))
    }

    fn kept(&self) -> Kept {
        let mut kept = Kept::default();
        let kind = |name: &str| *WATCHED.iter().find(|kind| kind.kind == name).unwrap();
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}, "annotations": {"large": "x"},
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "serviceAccountName": "s", "containers": [
                {"name": "main", "image": "large", "env": [], "ports": [{"name": "web", "containerPort": 80}]}, {"name": "other"}],
                "initContainers": [{"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 81, "protocol": "UDP"}]}]},
            "status": {"phase": "Running", "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00::2"}]},
        });
        let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.1.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "images": ["large"]}});
        let policy = json!({"metadata": {"name": "ap", "namespace": "n"},
            "spec": {"rules": [{"from": [{"source": {"principals": ["td/ns/n/sa/s"]}}]}]}});
        let report = json!({"metadata": {"name": "n1"}, "spec": {"nodeUID": "u", "credential": "c"},
            "status": {"joined": true, "bindings": [{"identity": "spiffe://td/node/n1", "epoch": 1, "binding": "b", "svid": ""}]}});
        let slice = json!({"metadata": {"name": "n1"}, "spec": {"node": "n1", "nodeUID": "u", "revision": 1,
            "bindings": [{"identity": "spiffe://td/node/n1", "epoch": 1, "binding": "b", "svid": ""}]}});
        let namespace = json!({"metadata": {"name": "n", "labels": {"weft.dev/mesh": "enabled"}}});
        let objects = [
            (kind("Pod"), pod),
            (kind("Node"), node),
            (kind("Namespace"), namespace),
            (AUTHORIZATION_POLICY, policy),
            (MESH_NODE, report),
            (MESH_ENDPOINT_SLICE, slice),
            self.trust(),
        ];
        for (kind, manifest) in objects {
            let raw: Raw = serde_json::from_value(manifest).unwrap();
            let (key, manifest) = (kind.key(&raw).unwrap(), raw.into_manifest());
            // what is left out changes nothing
            let (whole, less) =
                (convert::manifest(&key, &manifest, 0), convert::manifest(&key, &trimmed(&kind, &manifest), 0));
            assert!(whole.is_ok(), "{whole:?}");
            assert_eq!(whole, less);
            let line = line(&kind, &manifest);
            assert!(!line.contains("large"), "{line}");
            kept.insert(key, line);
        }
        kept
    }
}

fn refusal(file: &ViewFile, now: UnixTime) -> String {
    format!("{:#}", file.read(now).expect_err("it was believed"))
}

#[tokio::test]
async fn mf_05_what_is_kept_is_read_back_the_same() {
    let world = World::new();
    let file = world.file("u1");
    assert!(file.read(NOW).unwrap().is_none(), "nothing was kept yet");
    file.write(&world.kept(), NOW).await.unwrap();
    let (cached, age) = file.read(UnixTime(NOW.0 + 60)).unwrap().unwrap();
    assert_eq!((cached.len(), age), (7, Duration::from_secs(60)));
    for cached in cached {
        assert_eq!(WATCHED[cached.kind].kind, cached.key.kind);
    }
    let mut less = world.kept();
    less.remove(&ObjectKey { kind: "Pod", namespace: "n".to_owned(), name: "p".to_owned() });
    file.write(&less, NOW).await.unwrap();
    assert_eq!(file.read(NOW).unwrap().unwrap().0.len(), 6);
}

#[tokio::test]
async fn mf_05_a_view_that_cannot_be_believed_is_refused_with_the_reason() {
    let world = World::new();
    let file = world.file("u1");
    file.write(&world.kept(), NOW).await.unwrap();
    let day = 86_400;
    for now in [NOW.0 + day + 1, NOW.0 - 1] {
        let reason = refusal(&file, UnixTime(now));
        assert!(reason.contains("over a day old"), "{reason}");
    }
    assert!(file.read(UnixTime(NOW.0 + day)).is_ok());
    // a rebuilt node, a node that has pinned nothing, and one that has pinned another root
    assert!(refusal(&world.file("u2"), NOW).contains("u1"));
    let unpinned = ViewFile::new(world.dir.path(), "u1", None);
    assert!(refusal(&unpinned, NOW).contains("pinned no root"));
    let other = World::new();
    let foreign = ViewFile::new(world.dir.path(), "u1", Some(other.ca.bundle().root_fingerprint()));
    refusal(&foreign, NOW);
    // two roots in one view: the pinned one does not vouch for the other
    let mut mixed = world.kept();
    let (kind, mut manifest) = other.trust();
    manifest["metadata"]["name"] = json!("another");
    let key = kind.key(&serde_json::from_value(manifest.clone()).unwrap()).unwrap();
    mixed.insert(key, line(&kind, &manifest));
    file.write(&mixed, NOW).await.unwrap();
    refusal(&file, NOW);
    // no certificates at all
    let mut none = world.kept();
    none.remove(&ObjectKey { kind: "MeshTrust", namespace: String::new(), name: "local".to_owned() });
    file.write(&none, NOW).await.unwrap();
    assert!(refusal(&file, NOW).contains("no certificates"));
}

#[tokio::test]
async fn mf_07_a_damaged_view_is_refused_whole() {
    let world = World::new();
    let file = world.file("u1");
    file.write(&world.kept(), NOW).await.unwrap();
    let whole = std::fs::read(file.path()).unwrap();
    for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(file.path(), &whole[..cut]).unwrap();
        refusal(&file, NOW);
    }
    let mut flipped = whole;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(file.path(), &flipped).unwrap();
    refusal(&file, NOW);
    // whole as a file, and a line that cannot be read
    let mut kept = world.kept();
    kept.insert(ObjectKey { kind: "Pod", namespace: String::new(), name: String::new() }, "{}".to_owned());
    file.write(&kept, NOW).await.unwrap();
    assert!(refusal(&file, NOW).contains("line "));
}
