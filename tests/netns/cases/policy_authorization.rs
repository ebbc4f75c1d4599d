//! F7: AuthorizationPolicy goes by the identity that a key proves; a refusal says who and why.

use super::policy::{SOON, idle_pod, log_of, reaches_from};
use crate::lab::Lab;
use crate::shell::eventually;

pub const CASES: &[(&str, fn())] =
    &[("f7_only_who_is_authorized_by_its_key_gets_in_and_refusals_say_who_and_why", authorization)];

fn authorization() {
    let lab = Lab::of_four("nodes: 3");
    let more = [idle_pod("demo", "other", "n2"), idle_pod("demo", "near", "n2")].concat();
    lab.apply(&more);
    let server = lab.ips("demo/server");
    for ip in server {
        eventually("the control", SOON, || reaches_from(&lab, "demo/client", ip, 8080).then_some(()));
    }
    let policy = "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: to-server, namespace: demo}\n\
         spec: {selector: {matchLabels: {app: server}}, action: ALLOW, rules: [{from: [{source: {principals: [weft.lab/ns/demo/sa/client]}}], \
         to: [{operation: {ports: ['8080']}}]}]}\n";
    lab.put("authorization.yaml", policy);
    for ip in server {
        eventually("the wrong port is refused", SOON, || (!reaches_from(&lab, "demo/client", ip, 7)).then_some(()));
        assert!(reaches_from(&lab, "demo/client", ip, 8080), "who is named is refused");
        for stranger in ["demo/other", "demo/near", "plain/client", "plain/server", "stranger"] {
            assert!(!reaches_from(&lab, stranger, ip, 8080), "{stranger} got in");
        }
    }
    // what is not about the server is open as before
    assert!(reaches_from(&lab, "demo/other", lab.ip("demo/client", false), 8080));
    let status = lab.ask("n2", "status");
    assert!(status["drops"]["inbound_denied"].as_u64() > Some(0), "{}", status["drops"]);
    let rows = status["policy_denied"].as_array().expect("rows").clone();
    let source = lab.ip("demo/client", false).to_string();
    let row = rows
        .iter()
        .find(|row| row["source"] == source.as_str() && row["port"] == 7)
        .unwrap_or_else(|| panic!("{rows:#?}"));
    assert_eq!(row["policy"], "AuthorizationPolicy demo/to-server", "{row:#}");
    assert_eq!(row["source_workload"], "demo/client");
    assert_eq!(row["destination_workload"], "demo/server");
    let log = eventually("the refusal is told in one line", SOON, || {
        let text = log_of("n2");
        let line = text.lines().find(|line| {
            line.contains("Refused by policy") && line.contains("sa/client") && line.contains("sa/server")
        })?;
        Some(line.to_owned())
    });
    for part in ["AuthorizationPolicy demo/to-server", "no_allow_matched"] {
        assert!(log.0.contains(part), "{} lacks {part}", log.0);
    }
    // a namespace is proven by the key as well: that an address is a pod's there opens nothing, and closes
    lab.put("authorization.yaml", &of_namespaces("ALLOW", "demo, plain"));
    for ip in server {
        eventually("who has a key of the namespace gets in", SOON, || {
            reaches_from(&lab, "demo/other", ip, 8080).then_some(())
        });
        for stranger in ["plain/client", "plain/server"] {
            assert!(!reaches_from(&lab, stranger, ip, 8080), "{stranger} got in by its address");
        }
    }
    lab.put("authorization.yaml", &of_namespaces("DENY", "plain"));
    for ip in server {
        eventually("who is not named is let in", SOON, || reaches_from(&lab, "stranger", ip, 8080).then_some(()));
        assert!(!reaches_from(&lab, "plain/client", ip, 8080), "a claim does not close");
    }
    lab.put("authorization.yaml", policy);
    // a deny wins over the allow, by the key and not by the address
    let deny = policy
        .replace("to-server", "not-client")
        .replace("ALLOW", "DENY")
        .replace(", to: [{operation: {ports: ['8080']}}]", "");
    lab.put("deny.yaml", &deny);
    for ip in server {
        eventually("a deny wins", SOON, || (!reaches_from(&lab, "demo/client", ip, 8080)).then_some(()));
    }
    lab.put("deny.yaml", &deny.replace("DENY", "AUDIT"));
    for ip in server {
        eventually("an audit changes no verdict", SOON, || reaches_from(&lab, "demo/client", ip, 8080).then_some(()));
    }
    assert!(lab.drops("n2", "inbound_denied") > 0);
}

/// About the server, by the namespaces of who asks.
fn of_namespaces(action: &str, names: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: to-server, namespace: demo}}\n\
         spec: {{selector: {{matchLabels: {{app: server}}}}, action: {action}, rules: [{{from: [{{source: {{namespaces: [{names}]}}}}]}}]}}\n"
    )
}
