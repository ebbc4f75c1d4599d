//! Calls of a runtime: each variable, each verb, each version, and bytes of every kind.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, OsString> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect()
}

fn environment(verb: &str) -> BTreeMap<String, OsString> {
    variables(&[
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", "/run/netns/pod"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop"),
        ("CNI_PATH", "/opt/cni/bin"),
    ])
}

fn config(version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "net", "type": "mesh-cni",
        "prevResult": { "cniVersion": version, "ips": [] }, "cni.dev/valid-attachments": [],
    })
}

fn ask(verb: &str, config: &Value) -> Result<Question, RequestError> {
    Parameters::read(&environment(verb)).unwrap().ask(config.to_string().as_bytes())
}

#[test]
fn each_verb_is_read() {
    let attachment = Attachment::new("c0ffee", "eth0").unwrap();
    let netns = "/run/netns/pod".to_owned();
    let previous = AddResult::read(json!({ "cniVersion": "1.1.0", "ips": [] }), Version::NEWEST).unwrap();
    let wanted = [
        ("ADD", Call::Add { attachment: attachment.clone(), netns: netns.clone(), previous: previous.clone() }),
        ("CHECK", Call::Check { attachment: attachment.clone(), netns: netns.clone(), previous: previous.clone() }),
        ("DEL", Call::Del { attachment, netns: Some(netns), previous: Some(previous) }),
        ("GC", Call::Gc { valid: BTreeSet::new() }),
        ("STATUS", Call::Status),
    ];
    for (verb, call) in wanted {
        let question = ask(verb, &config("1.1.0")).unwrap();
        assert_eq!(question.call, call);
        assert_eq!(question.verb().as_str(), verb);
        assert_eq!(question.attachment().is_some(), !matches!(verb, "GC" | "STATUS"));
    }
    let question = ask("ADD", &config("1.1.0")).unwrap();
    assert_eq!(question.args.pod().map(|pod| (pod.namespace, pod.name)), Some(("shop", "web")));
}

#[test]
fn cn_09_each_missing_variable_is_named() {
    let needed = [
        ("ADD", &["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
        ("CHECK", &["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", &["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME"]),
        ("GC", &["CNI_COMMAND"]),
        ("STATUS", &["CNI_COMMAND"]),
        ("VERSION", &["CNI_COMMAND"]),
    ];
    for (verb, names) in needed {
        for name in environment(verb).keys() {
            for empty in [false, true] {
                let mut environment = environment(verb);
                environment.remove(name);
                if empty {
                    environment.insert(name.clone(), OsString::new());
                }
                let read = Parameters::read(&environment);
                if names.contains(&name.as_str()) {
                    let error = read.unwrap_err();
                    assert_eq!(error.code(), Code::INVALID_ENVIRONMENT);
                    assert!(error.to_string().contains(name.as_str()), "{verb} without {name}: {error}");
                } else {
                    assert!(read.is_ok(), "{verb} without {name}");
                }
            }
        }
    }
}

#[test]
fn cn_09_each_bad_variable_is_named() {
    let bad: [(&str, &[&str]); 5] = [
        ("CNI_COMMAND", &["add", "ADD ", "NOPE", "VERSIONS"]),
        ("CNI_CONTAINERID", &["-x", "a/b", "..", "a b", "a;b"]),
        ("CNI_IFNAME", &["sixteen-letters-", ".", "..", "a/b", "a:b", "a b"]),
        ("CNI_NETNS", &["run/netns/x", "./x", "pod"]),
        ("CNI_ARGS", &["x", "FOO=BAR", "=;"]),
    ];
    for verb in ["ADD", "CHECK", "DEL"] {
        for (name, values) in bad {
            for value in values {
                let mut environment = environment(verb);
                environment.insert(name.to_owned(), (*value).into());
                match Parameters::read(&environment) {
                    Err(error) => {
                        assert_eq!(error.code(), Code::INVALID_ENVIRONMENT);
                        assert!(error.to_string().contains(name), "{verb} with {name}={value}: {error}");
                    }
                    // a DEL needs neither
                    Ok(_) => {
                        assert!(verb == "DEL" && matches!(name, "CNI_NETNS" | "CNI_ARGS"), "{verb}: {name}={value}")
                    }
                }
            }
        }
    }
}

#[test]
fn cn_09_a_variable_that_is_not_utf_8_is_named() {
    use std::os::unix::ffi::OsStringExt as _;
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"] {
        let mut environment = environment("ADD");
        environment.insert(name.to_owned(), OsString::from_vec(vec![b'a', 0xff]));
        let error = Parameters::read(&environment).unwrap_err();
        assert_eq!((error.code(), error.to_string()), (Code::INVALID_ENVIRONMENT, format!("{name} is not UTF-8")));
    }
}

#[test]
fn cn_04_del_does_without_netns_and_previous_result() {
    for netns in [None, Some(""), Some("gone"), Some("/gone")] {
        for previous in [None, Some(json!(null)), Some(json!({})), Some(json!([])), Some(json!({ "ips": 7 }))] {
            let mut environment = environment("DEL");
            environment.remove("CNI_NETNS");
            environment.extend(netns.map(|netns| ("CNI_NETNS".to_owned(), netns.into())));
            let mut config = json!({ "cniVersion": "1.0.0", "name": "net" });
            if let Some(previous) = previous {
                config["prevResult"] = previous;
            }
            let question = Parameters::read(&environment).unwrap().ask(config.to_string().as_bytes()).unwrap();
            let Call::Del { netns: read, previous, .. } = question.call else { panic!("a DEL") };
            assert_eq!(read.as_deref(), netns.filter(|netns| netns.starts_with('/')));
            assert_eq!(previous, None);
        }
    }
}

#[test]
fn cn_08_what_is_no_configuration_has_code_6() {
    let deep = "[".repeat(100_000);
    let long = vec![b' '; CONFIGURATION.bytes_max + 1];
    let inputs: [&[u8]; 11] = [
        b"",
        b"\n",
        b"garbage",
        b"{\"cniVersion\":\"1.1.0\",\"na",
        b"[]",
        b"{\"name\":\"\xff\xfe\"}",
        b"\0\0",
        b"{\"x\":1e99999}",
        b"{}{}",
        deep.as_bytes(),
        &long,
    ];
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for input in inputs {
            let error = Parameters::read(&environment(verb)).unwrap().ask(input).unwrap_err();
            let start = input.get(..30).unwrap_or(input).escape_ascii();
            assert_eq!(error.code(), Code::DECODING_FAILURE, "{verb} {start}: {error}");
        }
    }
}

#[test]
fn cn_08_of_a_duplicate_key_the_last_counts() {
    let text =
        br#"{"cniVersion":"9.9.9","name":"net","cniVersion":"1.1.0","prevResult":{"ips":7},"prevResult":{"ips":[]}}"#;
    let question = Parameters::read(&environment("ADD")).unwrap().ask(text).unwrap();
    assert_eq!(question.conf.version, Version::V1_1_0);
}

#[test]
fn cn_10_unknown_and_missing_versions_have_code_1() {
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for version in ["0.1.0", "0.2.0", "0.3.0", "1.2.0", "2.0.0", "", "1.1", "nonsense"] {
            let error = ask(verb, &config(version)).unwrap_err();
            assert_eq!(error.code(), Code::INCOMPATIBLE_VERSION, "{verb} {version}: {error}");
        }
        let error = ask(verb, &json!({ "name": "net" })).unwrap_err();
        assert_eq!(error.code(), Code::INCOMPATIBLE_VERSION, "{verb}: {error}");
        assert!(error.to_string().contains("0.1.0"), "what the specification says of a missing one: {error}");
    }
}

#[test]
fn cn_10_a_verb_that_the_version_does_not_have_has_code_1() {
    for version in Version::ALL {
        for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::Version) {
            let asked = ask(verb.as_str(), &config(version.as_str()));
            if version >= Version::introducing(verb) {
                assert!(asked.is_ok(), "{verb:?} {version}");
            } else {
                assert_eq!(asked.unwrap_err().code(), Code::INCOMPATIBLE_VERSION, "{verb:?} {version}");
            }
        }
    }
}

#[test]
fn cn_18_add_and_check_need_a_previous_result() {
    for (verb, words) in [("ADD", "must be chained after a primary plugin"), ("CHECK", "needs that of the last ADD")] {
        for empty in [json!(null), json!({})] {
            let error = ask(verb, &json!({ "cniVersion": "1.1.0", "name": "net", "prevResult": empty })).unwrap_err();
            assert_eq!(error.code(), Code::INVALID_CONFIG);
            assert!(error.to_string().contains(words), "{error}");
        }
        let error =
            ask(verb, &json!({ "cniVersion": "1.1.0", "name": "net", "prevResult": { "ips": 7 } })).unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (Code::INVALID_CONFIG, "prevResult cannot be used: ips is not a list")
        );
    }
}

#[test]
fn cn_16_the_list_of_gc_must_be_there_and_be_one() {
    let entry = |id: &str| json!({ "containerID": id, "ifname": "eth0" });
    let gc = |list: Value| {
        let question = ask("GC", &json!({ "cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": list }))?;
        let Call::Gc { valid } = question.call else { panic!("a GC") };
        Ok::<_, RequestError>(valid.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(gc(json!([entry("b"), entry("a"), entry("a")])).unwrap(), ["a@eth0", "b@eth0"]);
    assert_eq!(gc(json!([])).unwrap(), [""; 0]);
    assert_eq!(gc(json!(null)).unwrap(), [""; 0]);
    assert_eq!(gc(json!([entry("../etc"), entry("a")])).unwrap(), ["a@eth0"]);
    for wrong in [json!({}), json!("x"), json!([1]), json!([{ "containerID": "a" }]), json!([entry("a"), null])] {
        assert_eq!(gc(wrong).unwrap_err().code(), Code::INVALID_CONFIG);
    }
    let error = ask("GC", &json!({ "cniVersion": "1.1.0", "name": "net" })).unwrap_err();
    assert!(error.to_string().contains("cni.dev/valid-attachments is missing"), "{error}");
}

#[test]
fn cn_10_version_says_back_what_was_asked_and_lists_all() {
    let all = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    let cases: [(&[u8], &str); 5] = [
        (br#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (br#"{"cniVersion":"9.9.9","x":1}"#, "9.9.9"),
        (b"", "1.1.0"),
        (b" \n", "1.1.0"),
        (b"{}", "1.1.0"),
    ];
    for (stdin, said) in cases {
        assert_eq!(version_answer(stdin).unwrap(), json!({ "cniVersion": said, "supportedVersions": all }));
    }
    assert_eq!(version_answer(b"garbage").unwrap_err().code(), Code::DECODING_FAILURE);
    assert_eq!(version_answer(br#"{"cniVersion":1}"#).unwrap_err().code(), Code::INVALID_CONFIG);
}

#[test]
fn errors_are_printed_in_the_version_that_was_asked_for() {
    assert_eq!(version_for_errors(br#"{"cniVersion":"0.3.1"}"#), Version::V0_3_1);
    for other in [&b""[..], b"x", b"{}", br#"{"cniVersion":"0.2.0"}"#] {
        assert_eq!(version_for_errors(other), Version::NEWEST);
    }
}

proptest! {
    #[test]
    fn fz_04_no_environment_and_no_stdin_panic(
        values in prop::collection::vec(".{0,20}", 5), verb in 0..7_usize, stdin in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let names = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];
        let mut environment: BTreeMap<String, OsString> = names.into_iter().zip(&values).map(|(n, v)| (n.to_owned(), v.into())).collect();
        if let Some(verb) = Verb::ALL.get(verb) {
            environment.insert("CNI_COMMAND".to_owned(), verb.as_str().into());
        }
        if let Ok(parameters) = Parameters::read(&environment) {
            drop(parameters.ask(&stdin));
        }
        drop(version_answer(&stdin));
    }

    #[test]
    fn fz_04_a_cut_configuration_is_refused_or_whole(cut in 0..400_usize, verb in 0..5_usize) {
        let text = config("1.1.0").to_string();
        let asked = Parameters::read(&environment(Verb::ALL[verb].as_str())).unwrap().ask(text.get(..cut).unwrap_or(&text).as_bytes());
        prop_assert_eq!(asked.is_ok(), cut >= text.len());
    }
}
