//! CN-17, PL-13 and ID-07: the primary network runs out of addresses, and one comes back on another pod.

use std::net::IpAddr;
use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::list::{LIST, OWN};
use crate::pod::{MARKER, READY, peer_authentication, pod};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] =
    &[("cn_17_pl_13_id_07_an_exhausted_range_and_an_address_that_comes_again", an_address_comes_again)];

/// Until a new holder of an address is reached. Its node may hold the former one's link-layer address as reachable, for up to 45 s and then
/// 8 s of probes (Linux, `base_reachable_time_ms`, `delay_first_probe_time`, `ucast_solicit`), where it did not hear the primary plugin's one
/// unsolicited advertisement.
const KNOWN: Duration = Duration::from_secs(75);

/// The primary plugin of n2 has few addresses while this lives; then its list is as it was.
struct FewAddresses<'a> {
    cluster: &'a Cluster,
    before: String,
}

impl<'a> FewAddresses<'a> {
    fn begin(cluster: &'a Cluster, count: u32) -> Self {
        let before = cluster.must_on("n2", OWN);
        let few = Self { cluster, before };
        cluster.on_node("n2", &["python3", "-c", include_str!("../range.py"), LIST, &count.to_string()]);
        cluster.await_chained("n2");
        few
    }
}

impl Drop for FewAddresses<'_> {
    fn drop(&mut self) {
        let write =
            "import os,sys; open(sys.argv[1]+'.new','w').write(sys.argv[2]); os.rename(sys.argv[1]+'.new',sys.argv[1])";
        self.cluster.on_node("n2", &["python3", "-c", write, LIST, &self.before]);
    }
}

fn an_address_comes_again(cluster: &Cluster) {
    let senders = cluster.pods("reuse", true, &[("sender", "n1")]);
    cluster.apply(&peer_authentication("reuse", "STRICT"));
    let few = FewAddresses::begin(cluster, 2);
    let account = |name: &str| {
        format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: reuse}}\n---\n")
    };
    cluster.apply(&(pod("reuse", "a", "n2", READY) + &pod("reuse", "b", "n2", READY)));
    let (a, b) = (cluster.pod("reuse/a"), cluster.pod("reuse/b"));
    eprintln!("the range's addresses are on {:?} and {:?}", a.ips, b.ips);
    // one too many: told, and nothing of it stays
    cluster.apply(&pod("reuse", "c", "n2", READY));
    eventually("the third pod is told why it waits", Duration::from_secs(180), || {
        let events = cluster.kubectl(&["-n", "reuse", "get", "events", "--field-selector", "involvedObject.name=c"]);
        events.contains("no IP addresses available").then_some(())
    });
    let kept = cluster.must_on("n2", "cat /var/lib/weft/attachments/* 2>/dev/null | tr -d '\\\\000' || true");
    assert!(!kept.contains("\"c\""), "an attachment of a pod that was never attached: {kept}");

    // datagrams go on to the address while its pod ends, nobody has it, and another pod gets it
    let capture = cluster.capture();
    let loads: Vec<_> = b.ips.iter().map(|ip| senders[0].datagrams(*ip, 9999, 600)).collect();
    cluster.kubectl(&["-n", "reuse", "delete", "pod", "b", "--grace-period=0", "--force"]);
    let c = cluster.pod("reuse/c");
    assert_eq!(c.ips, b.ips, "the only addresses that were free");
    for ip in &c.ips {
        let took = senders[0].pings_within(*ip, KNOWN);
        eprintln!("{ip} is its new holder's after {:.1} s", took.as_secs_f64());
        assert_eq!(senders[0].echo(*ip, MARKER).as_deref(), Some(MARKER));
    }
    let identity_at = |ip: IpAddr| {
        let slice = cluster.json(&["get", "meshendpointslice", "n2"]);
        let endpoints = slice["spec"]["endpoints"].as_array().cloned().unwrap_or_default();
        let found: Vec<_> = endpoints.iter().filter(|e| weft::addresses(e).any(|of| of == ip.to_string())).collect();
        assert!(found.len() <= 1, "one holder: {found:?}");
        found.first().and_then(|e| e["identity"].as_str()).unwrap_or_default().to_owned()
    };
    assert_eq!(identity_at(c.ips[0]), "spiffe://cluster.local/ns/reuse/sa/c");

    // the same name again, with the same address, and another account
    cluster.kubectl(&["-n", "reuse", "delete", "pod", "c", "--grace-period=0", "--force"]);
    cluster.apply(&account("other"));
    cluster.apply(&pod("reuse", "c", "n2", READY).replace("serviceAccountName: c", "serviceAccountName: other"));
    let again = cluster.pod("reuse/c");
    assert_eq!(again.ips, c.ips);
    for ip in &again.ips {
        let took = senders[0].pings_within(*ip, KNOWN);
        eprintln!("{ip} is its new holder's after {:.1} s", took.as_secs_f64());
        assert_eq!(identity_at(*ip), "spiffe://cluster.local/ns/reuse/sa/other", "who is there now");
    }
    // nobody knows the former one any more
    eventually("the former identity is gone", Duration::from_secs(90), || {
        let slice = cluster.json(&["get", "meshendpointslice", "n2"]);
        let bindings = slice["spec"]["bindings"].as_array().cloned().unwrap_or_default();
        let known = |account: &str| {
            let identity = format!("spiffe://cluster.local/ns/reuse/sa/{account}");
            bindings.iter().any(|b| b["identity"] == identity.as_str())
        };
        (known("other") && !known("c")).then_some(())
    });
    for load in loads {
        load.enough();
    }
    assert_eq!(capture.markers(), 0, "clear text while an address changed hands");
    drop(few);
    cluster.await_chained("n2");
    cluster.delete_namespaces(&["reuse"]);
}
