//! F8 to F12: who gets in, by mode, scope and label; no pod is restarted for any of it.

use std::time::Duration;

use serde_json::json;

use crate::lab::{Lab, MARKER, ask, markers, namespace, peer_authentication, pod};
use crate::shell::{eventually, run};

pub const CASES: &[(&str, fn())] = &[
    ("f8_strict_refuses_clear_text_and_says_who_was_refused", strict),
    ("f9_permissive_accepts_both_and_lists_the_clear_one", permissive),
    ("f10_disable_is_clear_text_and_takes_no_tunnelled_packet", disable),
    ("f11_scopes_and_ports", scopes_and_ports),
    ("f12_f24_labels_enrol_and_release_running_pods", labels),
    ("a_node_that_missed_a_change_is_heard_again_at_once", missed_a_change),
    ("require_mesh_sends_nothing_outside", require_mesh),
    ("pl_11_mode_stays_when_its_document_or_folder_goes_bad", stays),
    ("kubelet_probes_and_established_flows_under_strict", established_flows),
    ("bridge_as_primary_plugin_keeps_the_modes", bridge),
    ("programs_of_a_node_reach_strict_pods_elsewhere_in_both_families", programs_of_a_node),
    ("f17_keys_and_bindings_come_by_themselves_within_five_seconds", by_themselves),
];

const SOON: Duration = Duration::from_secs(5);

fn refused(lab: &Lab, from: &str, to: std::net::IpAddr) {
    eventually(&format!("{from} is refused at {to}"), SOON, || {
        lab.tcp_echo(from, to, 8080, "hello").is_none().then_some(())
    });
}

fn served(lab: &Lab, from: &str, to: std::net::IpAddr) {
    served_at(lab, from, to, 8080);
}

fn served_at(lab: &Lab, from: &str, to: std::net::IpAddr, port: u16) {
    eventually(&format!("{from} is served at {to} port {port}"), SOON, || {
        (lab.tcp_echo(from, to, port, "hello").as_deref() == Some("hello")).then_some(())
    });
}

fn programs_of_a_node() {
    let lab = Lab::of_four("nodes: 3");
    lab.put("strict.yaml", &peer_authentication("demo", "STRICT"));
    for ip in lab.ips("demo/server") {
        refused(&lab, "plain/client", ip);
        served(&lab, "node/n1", ip);
    }
}

fn strict() {
    let lab = Lab::of_four("nodes: 3");
    lab.put("strict.yaml", &peer_authentication("demo", "STRICT"));
    for ip in lab.ips("demo/server") {
        refused(&lab, "plain/client", ip);
        refused(&lab, "stranger", ip);
        assert_eq!(lab.udp_echo("plain/client", ip, 8080, "x"), None);
        assert!(!lab.pings("plain/client", ip));
        served(&lab, "demo/client", ip);
    }
    // a stranger on the same node is refused as well
    refused(&lab, "plain/server", lab.ip("demo/client", false));
    let status = lab.ask("n2", "status");
    let source = lab.ip("plain/client", false).to_string();
    let denied = status["denied"].as_array().expect("a list");
    let row = denied.iter().find(|row| row["source"] == source.as_str() && row["port"] == 8080);
    let row = row.unwrap_or_else(|| panic!("{denied:#?}"));
    let ends = [&row["source_workload"], &row["destination_workload"]];
    assert_eq!(ends, ["plain/client", "demo/server"], "both ends by name, without any policy: {row:#}");
    assert!(status["drops"]["plaintext_denied"].as_u64() > Some(0));
}

fn permissive() {
    let lab = Lab::of_four("nodes: 3");
    for ip in lab.ips("demo/server") {
        served(&lab, "plain/client", ip);
        let capture = lab.capture();
        served(&lab, "demo/client", ip);
        assert_eq!(lab.tcp_echo("demo/client", ip, 8080, MARKER).as_deref(), Some(MARKER));
        assert_eq!(markers(&capture.stop()), 0);
    }
    let seen = lab.ask("n2", "status")["clear_seen"].clone();
    for ip in lab.ips("plain/client") {
        let source = ip.to_string();
        assert!(seen.as_array().expect("a list").iter().any(|row| row["source"] == source.as_str()), "{seen:#}");
    }
}

fn disable() {
    let lab = Lab::of_four("nodes: 3");
    let ip = lab.ip("demo/server", false);
    served(&lab, "demo/client", ip);
    let server_only = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: server, namespace: demo}\n\
         spec: {selector: {matchLabels: {role: server}}, mtls: {mode: DISABLE}}\n";
    lab.put("label.yaml", &pod("demo", "third", "n2", "third", "role: server"));
    lab.put("disable.yaml", server_only);
    let third = eventually("the third pod has addresses", Duration::from_secs(10), || {
        let status = lab.status();
        let pod = status["pods"].as_array()?.iter().find(|p| p["name"] == "third")?.clone();
        pod["addresses"].as_array().filter(|a| !a.is_empty()).map(|_| lab.ip("demo/third", false))
    })
    .0;
    served(&lab, "plain/client", third);
    served(&lab, "demo/client", third);
    // it may have been a member for a moment: the pod's manifest was there before the policy's
    eventually("it is out of the mesh both ways, and reached in clear text", SOON, || {
        let capture = lab.capture();
        let answered = lab.tcp_echo("demo/client", third, 8080, MARKER).as_deref() == Some(MARKER);
        (answered && markers(&capture.stop()) > 0).then_some(())
    });
    eventually("it has no identity", SOON, || {
        let rows = lab.ask("n2", "status")["attachments"].clone();
        let row = rows.as_array()?.iter().find(|row| row["pod"] == "demo/third")?.clone();
        (row["enrolled"] == false && row["identity"].is_null()).then_some(())
    });
}

fn scopes_and_ports() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let ip = lab.ip("demo/server", false);
    lab.put("mesh.yaml", &peer_authentication("weft-system", "STRICT"));
    refused(&lab, "plain/client", ip);
    lab.put("namespace.yaml", &peer_authentication("demo", "PERMISSIVE"));
    served(&lab, "plain/client", ip);
    let workload = "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {name: all, namespace: demo}\n\
         spec: {selector: {matchLabels: {app: server}}, mtls: {mode: STRICT}, portLevelMtls: {7: {mode: PERMISSIVE}}}\n";
    lab.put("workload.yaml", workload);
    refused(&lab, "plain/client", ip);
    served_at(&lab, "plain/client", ip, 7);
    lab.put(
        "workload.yaml",
        &workload.replace("STRICT", "PERMISSIVE").replace("{7: {mode: PERMISSIVE}}", "{7: {mode: STRICT}}"),
    );
    served(&lab, "plain/client", ip);
    eventually("port 7 is closed", SOON, || lab.tcp_echo("plain/client", ip, 7, "x").is_none().then_some(()));
    served_at(&lab, "demo/client", ip, 7);
}

/// From an empty cluster: manifests alone, and two pods speak under keys that nobody handed out.
fn by_themselves() {
    let lab = Lab::up("nodes: 2\nfamilies: [ipv4]", &namespace("demo", true));
    let capture = lab.capture();
    lab.apply(&[pod("demo", "client", "n1", "client", ""), pod("demo", "server", "n2", "server", "")].concat());
    eventually("both pods run", Duration::from_secs(30), || {
        let status = lab.status();
        let pods = status["pods"].as_array()?;
        (pods.len() == 2 && pods.iter().all(|p| p["phase"] == "Running")).then_some(())
    });
    let server = lab.ip("demo/server", false);
    eventually("they speak", SOON, || lab.tcp_echo("demo/client", server, 8080, MARKER).filter(|text| text == MARKER));
    assert_eq!(markers(&capture.stop()), 0, "a first packet was clear");
    let rows = lab.ask("n1", "peers");
    let rows = rows.as_array().expect("rows");
    let peer = rows.iter().find(|row| row["identity"] == "spiffe://weft.lab/ns/demo/sa/server").expect("the peer");
    assert_eq!(peer["state"], "session", "{peer:#}");
}

fn labels() {
    let lab = Lab::of_four("nodes: 3");
    let before = lab.pod("plain/server");
    let (client, server) = (lab.ip("plain/client", false), lab.ip("plain/server", false));
    lab.pings_within("plain/client", server, SOON);
    // no exchange may get lost on the way in or out (decision 0008)
    let clear = |lab: &Lab| {
        let capture = lab.capture();
        assert_eq!(lab.tcp_echo("plain/client", server, 8080, MARKER).as_deref(), Some(MARKER));
        markers(&capture.stop()) > 0
    };
    served(&lab, "plain/client", server);
    assert!(clear(&lab), "the control");
    lab.apply(&namespace("plain", true));
    eventually("both are in the mesh, and nothing is clear any more", Duration::from_secs(10), || {
        (!clear(&lab)).then_some(())
    });
    lab.pings_within("plain/server", client, SOON);
    let after = lab.pod("plain/server");
    assert_eq!(before["pid"], after["pid"], "the pod was restarted");
    assert_eq!(before["uid"], after["uid"]);
    lab.apply(&namespace("plain", false));
    eventually("both are out again", Duration::from_secs(10), || clear(&lab).then_some(()));
    assert_eq!(lab.pod("plain/server")["pid"], before["pid"]);
}

/// A server leaves the mesh and comes back while its client's node looks elsewhere: that one keeps a session of which the
/// server's node knows nothing any more, and by WireGuard's rules would speak into the void for 15 s.
fn missed_a_change() {
    let lab = Lab::of_four("nodes: 3");
    for ip in lab.ips("demo/server") {
        lab.pings_within("demo/client", ip, SOON);
    }
    // a lab that is asked about itself asks every daemon, and one of them will not answer
    let (socket, folder) = (lab.node("n2")["adminSocket"].as_str().expect("a socket").to_owned(), lab.directory());
    let enrolled = |wanted: bool| {
        eventually(&format!("n2 has the server enrolled: {wanted}"), Duration::from_secs(10), || {
            let status = ask(&socket, &json!({ "verb": "status" }));
            let row = status["attachments"].as_array()?.iter().find(|row| row["pod"] == "demo/server")?.clone();
            (row["enrolled"] == wanted && status["peers"]["sessions"] == 0).then_some(())
        });
    };
    let disable = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: server, namespace: demo}\n\
        spec: {selector: {matchLabels: {app: server}}, mtls: {mode: DISABLE}}\n";
    let file = format!("{folder}/disable.yaml");
    let daemon = lab.node("n1")["pid"].to_string();
    run("kill", &["-STOP", &daemon]);
    std::fs::write(&file, disable).expect("the directory takes files");
    enrolled(false);
    std::fs::remove_file(&file).expect("it was just written");
    enrolled(true);
    run("kill", &["-CONT", &daemon]);
    for ip in lab.ips("demo/server") {
        lab.pings_within("demo/client", ip, SOON);
    }
}

fn require_mesh() {
    let lab = Lab::of_four("nodes: 3");
    let outside = lab.ips("plain/server");
    // Opportunistic is the default
    served(&lab, "demo/server", outside[0]);
    let policy = "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: demo}\nspec: {outbound: RequireMesh}\n";
    lab.put("require.yaml", policy);
    for ip in outside {
        refused(&lab, "demo/server", ip);
    }
    assert!(lab.drops("n2", "require_mesh") > 0);
    served(&lab, "demo/client", lab.ip("demo/server", true));
    served(&lab, "plain/client", lab.ip("demo/server", false));
}

fn stays() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let ip = lab.ip("demo/server", false);
    lab.put("mode.yaml", &peer_authentication("demo", "STRICT"));
    refused(&lab, "plain/client", ip);
    for bad in [
        "kind: [",
        &peer_authentication("demo", "LOOSE"),
        &peer_authentication("demo", "STRICT").replace("mtls", "mtsl"),
    ] {
        lab.put("mode.yaml", bad);
        eventually("the document is refused by name", SOON, || {
            let refusals = lab.ask("n2", "status")["refusals"].clone();
            let told =
                refusals.as_array()?.iter().any(|r| r["file"].as_str().is_some_and(|f| f.ends_with("mode.yaml")));
            told.then_some(())
        });
        assert_eq!(lab.tcp_echo("plain/client", ip, 8080, "x"), None, "{bad}");
    }
    let directory = lab.directory();
    std::fs::rename(&directory, format!("{directory}.away")).expect("the folder can be moved");
    eventually("the missing folder is told", SOON, || {
        let refusals = lab.ask("n2", "status")["refusals"].to_string();
        refusals.contains("the last state stays").then_some(())
    });
    assert_eq!(lab.tcp_echo("plain/client", ip, 8080, "x"), None, "a missing folder opened the pod");
    served(&lab, "demo/client", ip);
    std::fs::rename(format!("{directory}.away"), &directory).expect("and moved back");
    lab.remove("mode.yaml");
    served(&lab, "plain/client", ip);
}

fn established_flows() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let ip = lab.ip("demo/server", false);
    // a clear flow that is open when STRICT lands must die, and a tunnelled one must not
    let script = format!(
        "import socket,sys,time\ns=socket.create_connection(('{ip}',8080),2)\ns.settimeout(3)\nprint('open',flush=True)\n\
         end=time.time()+12\nn=0\nwhile time.time()<end:\n s.sendall(b'x'*10)\n s.recv(100)\n n+=1\n print(n,time.time(),flush=True)\n time.sleep(0.05)\n"
    );
    let mut clear = lab.spawn("plain/client", &["python3", "-c", &script]);
    let mut sealed = lab.spawn("demo/client", &["python3", "-c", &script]);
    let first = |child: &mut std::process::Child| {
        use std::io::{BufRead as _, BufReader};
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert_eq!(lines.next().and_then(Result::ok).as_deref(), Some("open"));
        lines.next().and_then(Result::ok).expect("an echo");
        lines
    };
    let (clear_lines, sealed_lines) = (first(&mut clear), first(&mut sealed));
    lab.put("strict.yaml", &peer_authentication("demo", "STRICT"));
    let clear_end = clear.wait().expect("it ends");
    assert!(!clear_end.success(), "a clear flow outlived STRICT");
    assert!(clear_lines.map_while(Result::ok).count() < 100, "the clear flow went on");
    assert!(sealed.wait().expect("it ends").success(), "the tunnelled flow died");
    assert!(sealed_lines.map_while(Result::ok).count() > 100, "the tunnelled flow stalled");
    // the node's own probe is not judged
    served(&lab, "node/n2", ip);
}

fn bridge() {
    let lab = Lab::up(
        "nodes: 2\nprimary: bridge",
        &[
            namespace("demo", true),
            namespace("plain", false),
            pod("demo", "a", "n1", "a", ""),
            pod("demo", "b", "n1", "b", ""),
            pod("demo", "far", "n2", "far", ""),
            pod("plain", "c", "n1", "c", ""),
            peer_authentication("demo", "STRICT"),
        ]
        .concat(),
    );
    for v6 in [false, true] {
        served(&lab, "demo/a", lab.ip("demo/b", v6));
        served(&lab, "demo/a", lab.ip("demo/far", v6));
        // through the same bridge, without ever being routed
        refused(&lab, "plain/c", lab.ip("demo/b", v6));
        assert!(!lab.pings("plain/c", lab.ip("demo/b", v6)));
    }
}
