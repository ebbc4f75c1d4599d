//! CN: the plugin chained after real ones, called by libcni and as a runtime calls, with a real daemon.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{Lab, namespace, pod};
use crate::runtime::{Runtime, Sandbox};
use crate::shell::eventually;

pub const CASES: &[(&str, fn())] = &[
    ("cn_10_cn_18_cn_22_libcni_gets_the_previous_result_in_every_version", every_version),
    ("cn_01_cn_02_a_second_add_is_refused_and_the_first_stays", second_add),
    ("cn_03_cn_04_cn_21_del_succeeds_whatever_is_gone_already", del_always),
    ("cn_03_cn_21_an_attachment_goes_with_its_pod_and_its_interface_where_no_del_comes", no_del),
    ("cn_05_cn_08_cn_09_a_bad_call_changes_nothing", bad_calls),
    ("cn_11_a_hundred_at_once", hundred),
    ("cn_15_check_sees_what_has_drifted", check_drift),
    ("cn_16_gc_takes_what_is_not_listed_and_nothing_else", garbage),
    ("cn_17_an_address_that_comes_again_on_a_bridge_is_reached_at_once", address_comes_again),
    ("cn_19_two_interfaces_of_one_container_live_apart", two_interfaces),
];

/// A lab of nodes without a pod: what is attached is attached by the case.
pub fn empty(nodes: u8) -> (Lab, Runtime) {
    let lab = Lab::up(&format!("nodes: {nodes}"), "");
    let runtime = Runtime::of(&lab, "n1");
    eventually("an ADD can be served", Duration::from_secs(20), || runtime.mesh_status().success.then_some(()));
    (lab, runtime)
}

fn address(result: &Value) -> String {
    let ip = result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("no address in {result}"));
    ip.split('/').next().unwrap_or(ip).to_owned()
}

fn every_version() {
    let (_lab, ptp) = empty(1);
    for primary in [ptp.clone(), ptp.with_bridge()] {
        let before = primary.traces();
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let runtime = primary.in_version(version);
            by_hand(&runtime, version);
            by_libcni(&runtime, version);
            if runtime.list["name"] == "weft-lab" {
                runtime.nothing_left(&before);
            }
        }
    }
    assert_eq!(ptp.attachments(), Vec::<String>::new());
}

/// Each plugin called alone: what goes in as `prevResult` comes out.
fn by_hand(runtime: &Runtime, version: &str) {
    let sandbox = Sandbox::new("by-hand");
    let previous = runtime.add_primary(&sandbox);
    let result = runtime.mesh("ADD", &sandbox, Some(&previous)).result();
    assert_eq!(result, previous, "{version}: prevResult was changed");
    assert_eq!(result["cniVersion"], version);
    if version != "0.3.1" {
        let checked = runtime.mesh("CHECK", &sandbox, Some(&result));
        assert!(checked.success, "{version}: CHECK right after ADD: {checked:?}");
    }
    runtime.del(&sandbox, Some(&result));
    sandbox.delete();
}

fn by_libcni(runtime: &Runtime, version: &str) {
    let sandbox = Sandbox::new("by-libcni");
    let said = |output: &std::process::Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let added = runtime.cnitool("add", &sandbox);
    assert!(added.status.success(), "{version}: {}", said(&added));
    let result: Value = serde_json::from_slice(&added.stdout).expect("cnitool prints the result");
    assert_eq!(result["cniVersion"], version);
    assert!(sandbox.has_interface());
    let interfaces = result["interfaces"].as_array().expect("interfaces");
    let inside = interfaces.iter().position(|i| i["sandbox"] == sandbox.netns.as_deref().expect("a path"));
    let inside = inside.unwrap_or_else(|| panic!("{version}: no interface in the sandbox: {result:#}"));
    assert_eq!(interfaces[inside]["name"], "eth0");
    for ip in result["ips"].as_array().expect("addresses") {
        assert_eq!(ip["interface"], inside, "{version}: {result:#}");
        // the families were written down up to 0.4.0, and are not from 1.0.0
        assert_eq!(ip["version"].is_string(), version.starts_with("0."), "{version}: {result:#}");
    }
    assert!(result["routes"].as_array().is_some_and(|routes| !routes.is_empty()), "{result:#}");
    assert!(result["dns"].is_object() || result["dns"].is_null(), "{result:#}");
    assert_eq!(runtime.cnitool_id().len(), 1);
    if version != "0.3.1" {
        let checked = runtime.cnitool("check", &sandbox);
        assert!(checked.status.success(), "{version}: {}", said(&checked));
    }
    if version == "1.1.0" {
        let status = runtime.cnitool("status", &sandbox);
        assert!(status.status.success(), "{}", said(&status));
    }
    for _twice in 0..2 {
        let deleted = runtime.cnitool("del", &sandbox);
        assert!(deleted.status.success(), "{version}: {}", said(&deleted));
    }
    assert!(runtime.cnitool_id().is_empty() && !sandbox.has_interface());
    sandbox.delete();
}

fn second_add() {
    let (_lab, runtime) = empty(1);
    let sandbox = Sandbox::new("twice");
    let result = runtime.must_add(&sandbox);
    let before = runtime.traces();
    let again = runtime.mesh("ADD", &sandbox, Some(&result));
    assert_eq!(again.code(), 101, "{again:?}");
    // the spare entry beside the list passes on what the one in it has done, and speaks for no other sandbox
    let spare = runtime.with_mesh(&json!({"spare": true}));
    assert_eq!(spare.mesh("ADD", &sandbox, Some(&result)).result(), result);
    let other = Sandbox { netns: Some("/proc/self/ns/net".to_owned()), ..sandbox.clone() };
    let stolen = spare.mesh("ADD", &other, Some(&result));
    assert!(!stolen.success, "another namespace under the same name: {stolen:?}");
    // by libcni it is the primary that refuses, for the interface is there; what it undoes is not ours
    let called = runtime.call("ADD", &runtime.conf(0, None), Some(&sandbox));
    assert!(!called.success, "{called:?}");
    assert_eq!(runtime.traces(), before);
    assert!(runtime.mesh("CHECK", &sandbox, Some(&result)).success);
    // another container must not take the same interface for its own
    let thief = Sandbox { id: "case-thief".to_owned(), ..sandbox.clone() };
    let stolen = runtime.mesh("ADD", &thief, Some(&result));
    assert!(!stolen.success, "one interface belongs to two containers: {stolen:?}");
    assert!(runtime.mesh("CHECK", &sandbox, Some(&result)).success, "and the first one lost it");
    // where only the spare entry is left, it does the whole of it
    let alone = Sandbox::new("alone");
    let result = spare.must_add(&alone);
    assert!(spare.mesh("CHECK", &alone, Some(&result)).success);
    assert_eq!(runtime.mesh("ADD", &alone, Some(&result)).code(), 101, "the other entry comes first, or not at all");
    spare.del(&alone, Some(&result));
}

fn del_always() {
    let (lab, runtime) = empty(1);
    let before = runtime.traces();
    let never = Sandbox::new("never");
    for _twice in 0..2 {
        runtime.del(&never, None);
    }
    // the namespace is gone, or the runtime does not say it any more, or says nothing
    for forgotten in [None, Some(String::new()), Some("/run/netns/gone".to_owned())] {
        let sandbox = Sandbox::new("short");
        runtime.must_add(&sandbox);
        sandbox.delete();
        for _twice in 0..2 {
            runtime.del(&Sandbox { netns: forgotten.clone(), ..sandbox.clone() }, None);
        }
        runtime.nothing_left(&before);
    }
    // a container id that lives again, in another namespace
    let first = Sandbox::new("first");
    runtime.must_add(&first);
    first.delete();
    runtime.del(&first, None);
    let second = Sandbox { id: first.id.clone(), ..Sandbox::new("second") };
    let result = runtime.must_add(&second);
    assert!(runtime.mesh("CHECK", &second, Some(&result)).success);
    // all that the daemon knew is lost
    runtime.daemon_down("-9");
    for name in runtime.attachments() {
        std::fs::remove_file(runtime.state("attachments").join(name)).expect("the state can be lost");
    }
    let runtime = runtime.daemon_up(&lab);
    let unknown = runtime.mesh("CHECK", &second, Some(&result));
    assert_eq!(unknown.code(), 3, "{unknown:?}");
    runtime.del(&second, Some(&result));
    runtime.nothing_left(&before);
}

fn no_del() {
    let (lab, runtime) = empty(1);
    lab.put("pod.yaml", &[namespace("demo", true), pod("demo", "ends", "n1", "ends", "")].concat());
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=ends".to_owned();
    let [gone, stays] = ["gone", "stays"].map(|name| Sandbox { args: args.clone(), ..Sandbox::new(name) });
    for sandbox in [&gone, &stays] {
        runtime.must_add(sandbox);
    }
    let ours = || runtime.attachments().into_iter().filter(|name| name.starts_with("case-")).collect::<Vec<_>>();
    assert_eq!(ours(), ["case-gone@eth0", "case-stays@eth0"]);
    gone.delete();
    lab.remove("pod.yaml");
    eventually("the one without an interface is gone", Duration::from_secs(30), || {
        (ours() == ["case-stays@eth0"]).then_some(())
    });
}

fn bad_calls() {
    let (_lab, runtime) = empty(1);
    let sandbox = Sandbox::new("bad");
    let previous = runtime.add_primary(&sandbox);
    let before = runtime.traces();
    let file = crate::lab::scratch("no-namespace");
    std::fs::write(&file, "text").expect("the case's folder takes files");
    let own = "/proc/self/ns/net".to_owned();
    for netns in [None, Some(String::new()), Some("/run/netns/gone".to_owned()), Some(file), Some(own)] {
        let called = runtime.mesh("ADD", &Sandbox { netns: netns.clone(), ..sandbox.clone() }, Some(&previous));
        assert!([3, 4].contains(&called.code()), "{netns:?}: {called:?}");
        assert!(called.stdout.contains("CNI_NETNS"), "{netns:?}: {called:?}");
    }
    for ifname in ["eth9", "lo"] {
        let called = runtime.mesh("ADD", &Sandbox { ifname: ifname.to_owned(), ..sandbox.clone() }, Some(&previous));
        assert_eq!(called.code(), 4, "{ifname}: {called:?}");
        assert!(called.stdout.contains(ifname), "{called:?}");
    }
    let mut without_interface = previous.clone();
    without_interface["ips"][0]["interface"] = json!(77);
    assert!(!runtime.mesh("ADD", &sandbox, Some(&without_interface)).success);
    // addresses that the interface does not have are somebody else's
    let mut others = previous.clone();
    others["ips"] = json!([{"address": "10.244.9.9/32", "interface": previous["ips"][0]["interface"]}]);
    let called = runtime.mesh("ADD", &sandbox, Some(&others));
    assert!(!called.success, "an address was taken that the interface does not have: {called:?}");
    assert_eq!(runtime.traces(), before);
    assert!(runtime.mesh("ADD", &sandbox, Some(&previous)).success, "and the right call is not served any more");
}

fn hundred() {
    const MANY: usize = 100;
    let (_lab, runtime) = empty(1);
    let before = runtime.traces();
    let sandboxes: Vec<Sandbox> = (0..MANY + 20).map(|n| Sandbox::new(&format!("many-{n}"))).collect();
    let (first, late) = sandboxes.split_at(MANY);
    let begin = Instant::now();
    let add = |sandbox: &Sandbox| runtime.must_add(sandbox);
    let results: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> = first.iter().map(|s| scope.spawn(|| add(s))).collect();
        threads.into_iter().map(|t| t.join().expect("ADD")).collect()
    });
    println!("{MANY} ADDs at once: {:?}", begin.elapsed());
    let ips: BTreeSet<String> = results.iter().map(address).collect();
    assert_eq!(ips.len(), MANY, "two pods have one address");
    assert_eq!(runtime.attachments().len(), MANY);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let (runtime, mut threads) = (&runtime, Vec::new());
        for (sandbox, result) in first.iter().zip(&results) {
            threads.push(scope.spawn(move || runtime.del(sandbox, Some(result))));
        }
        for sandbox in late {
            threads.push(scope.spawn(move || drop(runtime.must_add(sandbox))));
        }
        threads.into_iter().for_each(|t| t.join().expect("ADD or DEL"));
    });
    println!("{MANY} DELs mixed with {} ADDs: {:?}", late.len(), begin.elapsed());
    assert_eq!(runtime.attachments().len(), late.len());
    late.iter().for_each(|sandbox| runtime.del(sandbox, None));
    runtime.nothing_left(&before);
}

fn check_drift() {
    let (lab, runtime) = empty(1);
    let sandbox = Sandbox::new("drift");
    let result = runtime.must_add(&sandbox);
    // these primaries do not say the MTU, which 1.1.0 lets them do
    let mut told = result.clone();
    for interface in told["interfaces"].as_array_mut().expect("interfaces") {
        interface["mtu"] = json!(1500);
    }
    let check = || runtime.mesh("CHECK", &sandbox, Some(&told));
    assert!(check().success, "{:?}", check());
    // what is the pod's own: it stays broken until somebody repairs it
    let address = result["ips"][0]["address"].as_str().expect("an address");
    let inside = result["interfaces"].as_array().expect("interfaces").iter().find(|i| i["name"] == "eth0");
    let mac = inside.and_then(|i| i["mac"].as_str()).expect("a MAC");
    for (harm, repair) in [
        (vec!["ip", "addr", "del", address, "dev", "eth0"], vec!["ip", "addr", "add", address, "dev", "eth0"]),
        (
            vec!["ip", "link", "set", "eth0", "address", "02:00:00:00:00:77"],
            vec!["ip", "link", "set", "eth0", "address", mac],
        ),
        (vec!["ip", "link", "set", "eth0", "mtu", "1300"], vec!["ip", "link", "set", "eth0", "mtu", "1500"]),
        (vec!["ip", "link", "set", "eth0", "down"], vec!["ip", "link", "set", "eth0", "up"]),
    ] {
        sandbox.run(&harm);
        let called = check();
        assert_eq!(called.code(), 100, "{harm:?} was not seen: {called:?}");
        sandbox.run(&repair);
        if harm.contains(&"down") {
            // the kernel took these away with the link
            let v6 = result["ips"][1]["address"].as_str().expect("an IPv6 address");
            sandbox.run(&["ip", "addr", "replace", v6, "dev", "eth0", "nodad"]);
        }
        assert!(check().success, "{harm:?} was repaired: {:?}", check());
    }
    // what is ours: meshd repairs it twice a second, so that CHECK may come late; it must see it within a few tries
    for harm in [
        &["nft", "delete", "table", "netdev", "weft"][..],
        &["nft", "delete", "table", "inet", "weft"],
        &["ip", "rule", "del", "pref", "5182"],
    ] {
        eventually(&format!("CHECK sees {harm:?}"), Duration::from_secs(20), || {
            lab.must("node/n1", harm);
            let called = check();
            let seen = !called.success && called.code() == 100;
            eventually("meshd has put it right", Duration::from_secs(10), || check().success.then_some(()));
            seen.then_some(())
        });
    }
    // the kernel tells the data thread at once that its device is gone: CHECK finds it missing, or already there again
    for _ in 0..5 {
        lab.must("node/n1", &["ip", "link", "del", "mesh0"]);
        let called = check();
        assert!(called.success || called.code() == 100, "{called:?}");
        if called.success {
            let link = lab.must("node/n1", &["ip", "-o", "link", "show", "mesh0"]);
            assert!(link.contains(",UP"), "CHECK was content with {link}");
        }
        eventually("meshd has made it again", Duration::from_secs(10), || check().success.then_some(()));
    }
}

fn garbage() {
    let (_lab, runtime) = empty(1);
    let before = runtime.traces();
    let sandboxes: Vec<Sandbox> = ["kept", "stale", "also-stale"].map(Sandbox::new).to_vec();
    let results: Vec<Value> = sandboxes.iter().map(|s| runtime.must_add(s)).collect();
    let gc = |valid: &[&Sandbox]| {
        let list: Vec<Value> = valid.iter().map(|s| json!({"containerID": s.id, "ifname": s.ifname})).collect();
        let mut conf = runtime.conf(1, None);
        conf["cni.dev/valid-attachments"] = json!(list);
        let called = runtime.call("GC", &conf, None);
        assert!(called.success, "{called:?}");
    };
    // what another network's runtime says is not about these
    let mut other = runtime.conf(1, None);
    (other["name"], other["cni.dev/valid-attachments"]) = (json!("another"), json!([]));
    assert!(runtime.call("GC", &other, None).success);
    assert_eq!(runtime.attachments().len(), 3, "the GC of another network took attachments of this one");
    gc(&[&sandboxes[0]]);
    assert!(runtime.mesh("CHECK", &sandboxes[0], Some(&results[0])).success, "GC took what was listed");
    for (sandbox, result) in sandboxes.iter().zip(&results).skip(1) {
        assert_eq!(runtime.mesh("CHECK", sandbox, Some(result)).code(), 3);
    }
    gc(&[]);
    assert_eq!(runtime.attachments(), Vec::<String>::new());
    sandboxes.iter().zip(&results).for_each(|(sandbox, result)| runtime.del(sandbox, Some(result)));
    runtime.nothing_left(&before);
    // cnitool gives no list at all: libcni calls DEL for all that it remembers, and we do not take that for an empty list
    let [sandbox, other] = ["by-libcni", "other"].map(Sandbox::new);
    assert!(runtime.cnitool("add", &sandbox).status.success());
    let result = runtime.must_add(&other);
    let output = runtime.cnitool("gc", &sandbox);
    assert!(String::from_utf8_lossy(&output.stderr).contains("valid-attachments is missing"), "{output:?}");
    assert!(runtime.mesh("CHECK", &other, Some(&result)).success, "a missing list took what was attached");
    runtime.del(&other, Some(&result));
    runtime.nothing_left(&before);
}

fn address_comes_again() {
    let (_lab, runtime) = empty(1);
    let mut bridge = runtime.with_bridge();
    // as many addresses as sandboxes at once: one that stays, or the bridge would lose its carrier and with it all neighbours
    bridge.list["plugins"][0]["ipam"]["ranges"] = json!([
        [{"subnet": "10.99.0.0/24", "rangeStart": "10.99.0.2", "rangeEnd": "10.99.0.3"}],
        [{"subnet": "fd99::/64", "rangeStart": "fd99::2", "rangeEnd": "fd99::3"}],
    ]);
    let [stays, former, later] = ["stays", "former", "later"].map(Sandbox::new);
    let kept = bridge.must_add(&stays);
    // what the node knows of a neighbour it believes for longer than the case lasts
    for family in ["ipv4", "ipv6"] {
        bridge.shell(&format!("echo 600000 >/proc/sys/net/{family}/neigh/cni7/base_reachable_time_ms"));
    }
    let answers = |ip: &str| bridge.shell(&format!("ping -n -c 1 -W 2 {ip}")).contains(" 1 received");
    let reached = |result: &Value| {
        for ip in ["10.99.0.3", "fd99::3"] {
            assert!(result.to_string().contains(&format!("\"{ip}/")), "the only free addresses: {result:#}");
            // a link is some milliseconds old before it carries anything
            eventually(&format!("{ip} answers"), Duration::from_secs(10), || answers(ip).then_some(()));
        }
    };
    let result = bridge.must_add(&former);
    reached(&result);
    bridge.del(&former, Some(&result));
    former.delete();
    let known = bridge.shell("ip neigh show dev cni7; ip -6 neigh show dev cni7");
    assert!(["10.99.0.3 ", "fd99::3 "].iter().all(|ip| known.contains(ip)), "the node forgot by itself: {known}");
    let result = bridge.must_add(&later);
    reached(&result);
    bridge.del(&later, Some(&result));
    bridge.del(&stays, Some(&kept));
    assert_eq!(bridge.attachments(), Vec::<String>::new());
}

fn two_interfaces() {
    let (_lab, runtime) = empty(1);
    let second = runtime.with_bridge();
    let eth0 = Sandbox::new("both");
    let net1 = Sandbox { ifname: "net1".to_owned(), ..eth0.clone() };
    let (first, other) = (runtime.must_add(&eth0), second.must_add(&net1));
    assert_ne!(address(&first), address(&other));
    assert!(runtime.mesh("CHECK", &eth0, Some(&first)).success && second.mesh("CHECK", &net1, Some(&other)).success);
    second.del(&net1, Some(&other));
    assert!(runtime.mesh("CHECK", &eth0, Some(&first)).success, "DEL of net1 took eth0");
    let again = second.must_add(&net1);
    runtime.del(&eth0, Some(&first));
    assert!(second.mesh("CHECK", &net1, Some(&again)).success, "DEL of eth0 took net1");
    second.del(&net1, Some(&again));
    assert_eq!(runtime.attachments(), Vec::<String>::new());
}
