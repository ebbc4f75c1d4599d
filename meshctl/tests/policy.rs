//! `meshctl policy` as people run it: the binary, folders of manifests, what it prints and its exit codes.

#[cfg(test)]
#[path = "../../crates/policy/src/manifest/cases/script.rs"]
mod script;

#[cfg(test)]
mod cases {
    use std::path::Path;
    use std::process::Command;

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::script::{CASES, address, stages};

    /// Exit code, stdout and stderr of `meshctl policy …`.
    fn run(arguments: &[&str]) -> (i32, String, String) {
        let done = Command::new(env!("CARGO_BIN_EXE_meshctl")).arg("policy").args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    }

    fn json_of(arguments: &[&str]) -> (i32, Value) {
        let (code, out, errors) = run(&[arguments, &["-o", "json"]].concat());
        (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{errors}")))
    }

    fn folder(manifests: &[Value]) -> TempDir {
        let folder = TempDir::new().unwrap();
        let text: Vec<_> = manifests.iter().map(Value::to_string).collect();
        std::fs::write(folder.path().join("all.yaml"), text.join("\n---\n")).unwrap();
        folder
    }

    fn path(folder: &TempDir) -> &str {
        Path::to_str(folder.path()).unwrap()
    }

    const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {weft.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web}
status: {podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {app: cart}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]}]}
status: {podIPs: [{ip: 10.0.0.2}, {ip: \"fd00::2\"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cart, namespace: shop}
spec:
  podSelector: {matchLabels: {app: cart}}
  ingress:
  - {from: [{podSelector: {matchLabels: {app: nobody}}}]}
  - {from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}
";

    fn shop(more: &str) -> TempDir {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("shop.yaml"), format!("{SHOP}---\n{more}")).unwrap();
        folder
    }

    #[test]
    fn a_verdict_names_policy_rule_and_reason_and_is_the_exit_code() {
        let folder = shop("");
        let verdict = |from: &str, to: &str| json_of(&["verdict", from, to, "--from", path(&folder)]);
        let (code, allowed) = verdict("shop/web", "shop/cart:80/tcp");
        assert_eq!((code, &allowed["verdict"], &allowed["rule"]), (0, &json!("allowed"), &json!(1)), "{allowed}");
        assert_eq!((&allowed["policy"], &allowed["reason"]), (&json!("NetworkPolicy shop/cart"), &json!("rule")));
        for (to, port) in [("shop/cart:http", 80), ("10.0.0.2:80", 80), ("[fd00::2]:http/tcp", 80)] {
            let (code, named) = verdict(if to.starts_with('[') { "fd00::1" } else { "shop/web" }, to);
            assert_eq!((code, &named["port"]), (0, &json!(port)), "{to}: {named}");
        }
        for (from, to) in [
            ("shop/web", "shop/cart:81/tcp"),
            ("shop/web", "shop/cart:dns"),
            ("shop/web", "shop/cart:icmp"),
            ("shop/web", "shop/cart:ip/47"),
            ("192.0.2.1", "shop/cart:80"),
        ] {
            let (code, denied) = verdict(from, to);
            assert_eq!((code, &denied["verdict"], &denied["rule"]), (1, &json!("denied"), &Value::Null), "{from} {to}");
            assert_eq!((&denied["reason"], &denied["policy"]), (&json!("isolated"), &json!("NetworkPolicy shop/cart")));
        }
        let (code, text, _) = run(&["verdict", "shop/web", "shop/cart:81", "--from", path(&folder)]);
        assert_eq!(code, 1);
        assert!(text.contains("denied: NetworkPolicy shop/cart isolates it"), "{text}");
        let (_, back) = verdict("shop/cart", "shop/web:80");
        assert_eq!((&back["verdict"], &back["reason"]), (&json!("allowed"), &json!("no_policy")));
    }

    #[test]
    fn families_that_differ_are_both_told() {
        let folder = shop(
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: v4, namespace: shop}, \
             spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}",
        );
        let (code, told) = json_of(&["verdict", "shop/cart", "shop/web:80", "--from", path(&folder)]);
        assert_eq!((code, &told["verdict"]), (1, &json!("denied")));
        let families = json!([{"family": "ipv6", "verdict": "denied"}, {"family": "ipv4", "verdict": "allowed"}]);
        assert_eq!(told["families"], families);
        let (_, text, _) = run(&["verdict", "shop/cart", "shop/web:80", "--from", path(&folder)]);
        assert!(text.contains("ipv4: allowed") && text.contains("ipv6: denied"), "{text}");
    }

    #[test]
    fn a_claim_without_a_key_is_not_who_it_says() {
        let folder = shop(
            "{apiVersion: weft.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {name: web, namespace: shop}, \
             spec: {selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {principals: [td/ns/shop/sa/web]}}]}]}}",
        );
        let ask = ["verdict", "shop/web", "shop/cart:80", "--from", path(&folder), "--trust-domain", "td"];
        assert_eq!(json_of(&ask).0, 0);
        let (code, denied) = json_of(&[&ask[..], &["--unproven"]].concat());
        assert_eq!((code, &denied["reason"]), (1, &json!("no_allow_matched")));
    }

    #[test]
    fn an_error_says_what_to_do_and_is_no_verdict() {
        let folder = shop("");
        for (arguments, expected) in [
            (["shop/wib", "shop/cart:80"], "there is no pod shop/wib (there are: shop/cart, shop/web)"),
            (["shop/web", "shop/cart"], "names no port: say namespace/pod:PORT/PROTOCOL"),
            (["shop/web", "shop/cart:https"], "has no container port named `https`"),
            (["shop/web", "shop/cart:80/quic"], "`quic` is no tcp, udp or sctp"),
            (["web", "shop/cart:80"], "`web` is neither namespace/pod nor an address"),
            (["shop/web", "shop/cart:0"], "`0` is no port: 1 to 65535"),
            (["192.0.2.1", "fd00::2:80"], "an IPv6 address is in brackets"),
            (["192.0.2.1", "[fd00::2]:80"], "no address of the same family"),
            (["shop/web", "shop/cart:ip/6"], "no IP protocol without ports"),
        ] {
            let (code, out, error) = run(&["verdict", arguments[0], arguments[1], "--from", path(&folder)]);
            assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {error}");
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
        let (code, _, error) = run(&["verdict", "a/b", "c/d:80", "--from", "/does/not/exist"]);
        assert!(code == 2 && error.contains("no manifests at /does/not/exist"), "{error}");
        let empty = TempDir::new().unwrap();
        for arguments in [&["lint", "--from", path(&empty)][..], &["lint", path(&empty)]] {
            let (code, _, error) = run(arguments);
            assert!(code == 2 && error.contains("name the folder that has them"), "{error}");
        }
        std::fs::write(empty.path().join("bad.yaml"), ": [").unwrap();
        let (code, _, error) = run(&["lint", path(&empty)]);
        assert!(code == 2 && error.contains("can be read") && error.contains("bad.yaml"), "{error}");
    }

    #[test]
    fn lint_finds_what_does_not_do_what_it_seems_to() {
        let folder = shop(
            "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: typo, namespace: shop},
 spec: {podSelector: {matchLabels: {app: catr}}, ingress: []}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: wide, namespace: shop},
 spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80, endPort: 90}]}, {from: [{podSelector: {}}], ports: [{port: 85}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: slip, namespace: shop},
 spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelectr: {}}, {podSelector: {matchLabels: {app: cart}}}]}]}}
---
{apiVersion: weft.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {name: http, namespace: shop},
 spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}}
---
kind: [
",
        );
        let (code, findings) = json_of(&["lint", "--from", path(&folder)]);
        assert_eq!(code, 1);
        let findings: Vec<_> = findings
            .as_array()
            .unwrap()
            .iter()
            .map(|f| {
                let text = |field: &str| f[field].as_str().unwrap().to_owned();
                (text("kind"), text("policy"), text("message"))
            })
            .collect();
        let has = |kind: &str, policy: &str, message: &str| {
            let found = findings.iter().filter(|f| f.0 == kind && f.1 == policy && f.2.contains(message)).count();
            assert_eq!(found, 1, "{kind} {policy} {message}: {findings:#?}");
        };
        has("selects_nothing", "NetworkPolicy shop/typo", "selects no pod of namespace shop");
        has(
            "shadowed",
            "NetworkPolicy shop/wide",
            "rule 1 never decides: NetworkPolicy shop/wide, rule 0 always does before",
        );
        has("matches_nobody", "NetworkPolicy shop/cart", "rule 0 matches nobody who is there now");
        has(
            "not_used",
            "AuthorizationPolicy shop/http",
            "spec.rules[0].to[0].operation.methods: it would take reading HTTP",
        );
        has("not_used", "NetworkPolicy shop/slip", "spec.ingress[0].from[0].podSelectr: this field is not known here");
        has("not_used", "", "");
        assert!(findings.iter().filter(|f| f.0 == "shadowed").all(|f| f.1.ends_with("wide")), "{findings:#?}");
    }

    #[test]
    fn a_good_folder_has_nothing_to_say() {
        let folder = folder(&[
            json!({"kind": "Pod", "metadata": {"namespace": "x", "name": "a"}, "status": {"podIP": "10.0.0.1"}}),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "x", "name": "p"},
                "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}}),
        ]);
        assert_eq!(run(&["lint", "--from", path(&folder)]), (0, "nothing found\n".to_owned(), String::new()));
    }

    #[test]
    fn diff_tells_which_pairs_a_change_opens_and_closes() {
        let old = shop("");
        let new = TempDir::new().unwrap();
        let text = SHOP.replace("{port: http}", "{port: 8080, endPort: 8090}, {protocol: UDP}");
        std::fs::write(new.path().join("a.yml"), text).unwrap();
        let (code, changes) = json_of(&["diff", path(&old), path(&new)]);
        assert_eq!(code, 1);
        let told: Vec<_> = changes
            .as_array()
            .unwrap()
            .iter()
            .map(|change| {
                let text = |field: &str| change[field].as_str().unwrap_or("-");
                format!("{} {} {} {}", text("source"), text("destination"), text("service"), text("after"))
            })
            .collect();
        assert_eq!(
            told,
            [
                "shop/web shop/cart 80/tcp denied",
                "shop/web shop/cart 8080-8090/tcp allowed",
                "shop/web shop/cart every udp port allowed",
            ]
        );
        let (code, same, _) = run(&["diff", path(&old), path(&old)]);
        assert_eq!((code, same.as_str()), (0, "0 of 2 pairs change; 0 workloads are new, 0 gone\n"));
    }

    #[test]
    fn np_01_the_cases_of_kubernetes_through_the_command() {
        for line in CASES.lines() {
            for is_v6 in [false, true] {
                for stage in stages(line, is_v6) {
                    let folder = folder(&stage.manifests);
                    for probe in &stage.probes {
                        for (from, to, expected) in &probe.cells {
                            let destination = format!("[{}]:{}/{}", address(to, is_v6), probe.port, probe.protocol);
                            let source = address(from, is_v6);
                            let (code, told) = json_of(&["verdict", &source, &destination, "--from", path(&folder)]);
                            let verdict = if *expected { (0, "allowed") } else { (1, "denied") };
                            assert_eq!(
                                (code, told["verdict"].as_str().unwrap()),
                                verdict,
                                "{}: {from} {to}",
                                stage.title
                            );
                        }
                    }
                }
            }
        }
    }
}
