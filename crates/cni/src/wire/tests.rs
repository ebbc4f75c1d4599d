//! Both directions of the conversation, and lines that are none.

use std::ffi::OsString;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn question(verb: Verb, netns: &str, config: &Value) -> Question {
    let variables: BTreeMap<String, OsString> = [
        ("CNI_COMMAND", verb.as_str()),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web;X=\u{e9}\n"),
    ]
    .map(|(name, value)| (name.to_owned(), value.into()))
    .into();
    Parameters::read(&variables).unwrap().ask(config.to_string().as_bytes()).unwrap()
}

fn config() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "mesh-cni", "zebra": { "z": "\n", "a": [1.5, -1, null] }, "alpha": "\u{2028}",
        "prevResult": { "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.5/24", "odd": 1 }] },
        "cni.dev/valid-attachments": [{ "containerID": "b", "ifname": "eth0" }],
    })
}

#[test]
fn what_is_asked_is_what_is_read() {
    for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::Version) {
        for netns in ["/run/netns/x", ""] {
            if netns.is_empty() && matches!(verb, Verb::Add | Verb::Check) {
                continue;
            }
            let asked = question(verb, netns, &config());
            let line = asked.encode().unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
            assert_eq!(line.last(), Some(&b'\n'));
            assert_eq!(Question::decode(&line).unwrap(), asked, "{verb:?}");
            assert_eq!(Question::decode(line.strip_suffix(b"\n").unwrap()).unwrap(), asked);
        }
    }
}

#[test]
fn the_line_is_as_documented() {
    let config = json!({ "cniVersion": "1.1.0", "name": "net", "prevResult": { "ips": [] } });
    let line = String::from_utf8(question(Verb::Add, "/run/netns/p", &config).encode().unwrap()).unwrap();
    expect_test::expect![[r#"
        {"version":1,"verb":"ADD","containerID":"c0ffee","ifname":"eth0","netns":"/run/netns/p","args":{"IgnoreUnknown":"1","K8S_POD_NAME":"web","X":"é\n"},"config":{"cniVersion":"1.1.0","name":"net","prevResult":{"ips":[]}}}
    "#]]
    .assert_eq(&line);
}

#[test]
fn answers_are_read_as_they_were_given() {
    let error = CniError::new(Code::TRY_AGAIN_LATER, "later", "soon");
    let plain = CniError::new(Code(123), "no", "");
    let answers = [
        Answer::Done { result: None },
        Answer::Done { result: Some(json!({ "z": 1, "a": 2 })) },
        Answer::Refused(error),
        Answer::Refused(plain),
    ];
    for answer in answers {
        assert_eq!(Answer::decode(&answer.encode().unwrap()).unwrap(), answer);
    }
    assert_eq!(Answer::Done { result: None }.encode().unwrap(), b"{\"ok\":true}\n");
}

#[test]
fn what_is_no_answer_is_refused() {
    let lines: [&[u8]; 12] = [
        b"",
        b"\n",
        b"ok",
        b"{}",
        b"[]",
        b"{\"ok\":1}",
        b"{\"ok\":true",
        b"{\"ok\":true}{}",
        b"{\"ok\":true,\"result\":[]}",
        b"{\"ok\":false}",
        b"{\"ok\":false,\"error\":{\"code\":-1,\"msg\":\"x\"}}",
        b"{\"ok\":false,\"error\":{\"code\":1}}",
    ];
    for line in lines {
        assert!(Answer::decode(line).is_err(), "{}", line.escape_ascii());
    }
}

#[test]
fn another_version_of_the_conversation_is_told_what_to_do() {
    let error = Question::decode(br#"{"version":2,"verb":"ADD"}"#).unwrap_err();
    let answer = CniError::from(error);
    assert_eq!(answer.code, Code::TRY_AGAIN_LATER);
    assert!(answer.to_string().contains("same release"), "{answer}");
}

#[test]
fn what_comes_over_the_wire_is_checked_again() {
    let line = question(Verb::Add, "/run/netns/x", &config()).encode().unwrap();
    let asked: Value = serde_json::from_slice(&line).unwrap();
    let bad = [
        ("verb", json!("add"), "verb"),
        ("verb", json!("VERSION"), "CNI_COMMAND"),
        ("containerID", json!("../x"), "CNI_CONTAINERID"),
        ("containerID", json!(7), "containerID"),
        ("ifname", json!("a/b"), "CNI_IFNAME"),
        ("ifname", json!(null), "CNI_IFNAME"),
        ("netns", json!("x"), "CNI_NETNS"),
        ("args", json!({ "FOO": "BAR" }), "CNI_ARGS"),
        ("args", json!({ "FOO": 1 }), "args"),
        ("config", json!([]), "config"),
        ("config", json!({ "cniVersion": "1.1.0", "name": "net" }), "prevResult"),
        ("version", json!("1"), "version"),
    ];
    for (field, value, named) in bad {
        let mut asked = asked.clone();
        asked[field] = value;
        let error = CniError::from(Question::decode(asked.to_string().as_bytes()).unwrap_err());
        assert!(error.to_string().contains(named), "{field}: {error}");
    }
}

#[test]
fn the_largest_configurations_fit_a_line() {
    use crate::document::CONFIGURATION;
    let deep = (0..CONFIGURATION.depth_max - 1).fold(json!(0), |inner, _| json!([inner]));
    let many = json!(vec![0; CONFIGURATION.values_max - 40]);
    // each of these six bytes is one once it is read, and six again on the line
    let long = json!("\u{1}".repeat((CONFIGURATION.bytes_max - 1000) / 6));
    for extra in [deep, many, long] {
        let mut config = config();
        config["extra"] = extra;
        let asked = question(Verb::Add, "/run/netns/x", &config);
        let line = asked.encode().unwrap();
        assert!(line.len() < LINE_LENGTH_MAX);
        assert_eq!(Question::decode(&line).unwrap(), asked);
    }
}

proptest! {
    #[test]
    fn fz_10_no_line_panics(line in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(Question::decode(&line));
        drop(Answer::decode(&line));
    }

    #[test]
    fn fz_10_no_mutation_of_a_question_panics_or_loses_what_it_is_about(at in 0..600_usize, byte in any::<u8>()) {
        let asked = question(Verb::Del, "/run/netns/x", &config());
        let mut line = asked.encode().unwrap();
        let at = at % line.len();
        line[at] = byte;
        if let Ok(read) = Question::decode(&line) {
            prop_assert!(read.attachment().is_some() || read.verb() != Verb::Del);
        }
    }

    #[test]
    fn fz_10_structured_lines_do_not_panic(
        verb in "ADD|DEL|CHECK|GC|STATUS|VERSION|X", id in ".{0,4}", ifname in ".{0,4}", netns in "/?.{0,4}", key in ".{0,10}",
        version in "0.3.1|0.4.0|1.0.0|1.1.0|.{0,3}",
    ) {
        let line = json!({
            "version": 1, "verb": verb, "containerID": id, "ifname": ifname, "netns": netns, "args": { &key: "1" },
            "config": { "cniVersion": version, "name": "n", &key: id, "prevResult": { &key: [] } },
        });
        if let Ok(read) = Question::decode(line.to_string().as_bytes()) {
            prop_assert_eq!(Question::decode(&read.encode().unwrap()).unwrap(), read);
        }
    }
}
