//! Recorded calls: environment, stdin and the daemon's answers in; what was asked, printed and left behind out.
//!
//! `tests/golden/<case>.call.json` is the input, `<case>.out` what came of it; `UPDATE_EXPECT=1` writes the latter anew.
//! `@DIR@` stands for the node's folder. Cases without `answers` have no daemon.

use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use serde_json::Value;

use crate::daemon::{Daemon, Reply};
use crate::runtime::Runtime;

#[test]
fn recorded_calls_give_what_they_gave() {
    let cases = cases();
    for case in &cases {
        let out = case.with_extension("").with_extension("out");
        expect_file![out].assert_eq(&replay(&fs::read_to_string(case).unwrap()));
    }
    assert!(cases.len() > 50, "only {} cases found", cases.len());
}

#[test]
fn cn_22_every_printed_result_is_one_of_the_version_asked_for() {
    let mut count = 0;
    for case in cases() {
        let text = fs::read_to_string(&case).unwrap();
        let call: Value = serde_json::from_str(&text).unwrap();
        let out = replay(&text);
        if call["environment"]["CNI_COMMAND"] != "ADD" || !out.starts_with("success") {
            continue;
        }
        let stdout = out.split_once("stdout:\n").unwrap().1.split_once("stderr:").unwrap().0;
        let printed: Value = serde_json::from_str(stdout).unwrap();
        assert_eq!(printed["cniVersion"], call["stdin"]["cniVersion"], "{}", case.display());
        let result = cni::AddResult::read(printed, cni::Version::V0_3_1).unwrap();
        let old = result.version() < cni::Version::V1_0_0;
        let ips = result.fields()["ips"].as_array().unwrap();
        assert!(!ips.is_empty() && ips.iter().all(|ip| ip.get("version").is_some() == old), "{}", case.display());
        let before = |list: &str, field: &str| {
            let items = result.fields().get(list).and_then(Value::as_array).into_iter().flatten();
            items.filter(|item| item.get(field).is_some()).count()
        };
        let newer = before("interfaces", "mtu") + before("routes", "mtu") + before("routes", "priority");
        assert!(newer == 0 || result.version() == cni::Version::V1_1_0, "{}", case.display());
        count += 1;
    }
    assert!(count > 10, "only {count} results found");
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let paths = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().ends_with(".call.json")).collect()
}

fn replay(text: &str) -> String {
    let mut runtime = Runtime::new("VERSION");
    let folder = runtime.folder().to_str().unwrap().to_owned();
    let case: Value = serde_json::from_str(&text.replace("@DIR@", &folder)).unwrap();
    let variables = case["environment"].as_object().unwrap();
    runtime.environment =
        variables.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
    let daemon = case["answers"].as_array().map(|answers| {
        let replies = answers.iter().map(|answer| Reply::Bytes(format!("{answer}\n").into_bytes()));
        Daemon::start(&runtime.socket(), replies.collect())
    });
    let stdin = case["stdin"].as_str().map_or_else(|| case["stdin"].to_string(), str::to_owned);
    let called = runtime.call_with(stdin.as_bytes());

    let mut out = format!("{}\n", if called.success { "success" } else { "failure" });
    for line in daemon.iter().flat_map(Daemon::lines) {
        out.push_str(&format!("asked: {}", String::from_utf8(line).unwrap()));
    }
    out.push_str(&format!("stdout:\n{}stderr:\n{}", called.stdout, called.stderr));
    let tombstones = fs::read_dir(runtime.tombstones()).into_iter().flatten().map(|entry| entry.unwrap().path());
    for path in tombstones {
        out.push_str(&format!("left: {} {}\n", path.display(), fs::read_to_string(&path).unwrap()));
    }
    out.replace(&folder, "@DIR@")
}
