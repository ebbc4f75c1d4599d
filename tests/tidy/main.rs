//! The house rules as a test: what CONTRIBUTING.md says and what the code does are held against each other.

mod stairs;

use std::fs;
use std::path::{Path, PathBuf};

/// Lines over which a file is listed as one to look at.
const SOFT_LINES: usize = 400;
/// Lines over which a file fails.
const HARD_LINES: usize = 700;
/// Names that say nothing: no file, folder or module has one.
const EMPTY_NAMES: [&str; 9] = ["util", "utils", "common", "misc", "helper", "helpers", "manager", "types", "core"];
/// Crates that may be named in one place only: the word, and where.
const ONE_HOME: [(&str, &str); 6] = [
    ("boringtun", "crates/wg/"),
    ("rtnetlink", "meshd/src/kernel"),
    ("netlink_packet_route", "meshd/src/kernel"),
    ("serde_saphyr", "meshd/src/cluster"),
    ("kube", "meshd/src/cluster"),
    ("k8s_openapi", "meshd/src/cluster"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is inside the repository").to_path_buf()
}

/// Every file that git would see, by its path from the top.
fn tracked_files() -> Vec<(String, String)> {
    let listed = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    assert!(listed.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    names
        .split('\0')
        .filter(|name| !name.is_empty())
        .filter_map(|name| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?)))
        .collect()
}

fn rust_files() -> Vec<(String, String)> {
    let files: Vec<_> = tracked_files().into_iter().filter(|(name, _)| name.ends_with(".rs")).collect();
    assert!(files.len() > 30, "only {} Rust files found: the listing is broken", files.len());
    files
}

fn none(what: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{what}:\n  {}", offenders.join("\n  "));
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let offenders: Vec<_> =
        rust_files().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(name, _)| name).collect();
    none("the first line of a Rust file is a `//! ` sentence", &offenders);
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut offenders = Vec::new();
    for (name, text) in rust_files() {
        let lines = text.lines().count();
        if lines > HARD_LINES {
            offenders.push(format!("{name}: {lines}"));
        } else if lines > SOFT_LINES {
            println!("worth splitting: {name} has {lines} lines");
        }
    }
    none("files over 700 lines", &offenders);
}

#[test]
fn no_name_is_empty_of_meaning() {
    let empty = |name: &str| {
        Path::new(name).iter().any(|part| {
            let part = part.to_string_lossy();
            EMPTY_NAMES.contains(&part.trim_end_matches(".rs"))
        })
    };
    let offenders: Vec<_> = rust_files().into_iter().filter(|(name, _)| empty(name)).map(|(name, _)| name).collect();
    none("names that say nothing", &offenders);
}

#[test]
fn each_heavy_dependency_has_one_home() {
    let mut offenders = Vec::new();
    for (name, text) in rust_files() {
        for (word, home) in ONE_HOME {
            let imports = text.lines().map(str::trim_start).any(|line| {
                !line.starts_with("//")
                    && (line.contains(&format!("{word}::")) || line.contains(&format!("use {word}")))
            });
            let allowed = name.starts_with(home) || name.starts_with("tests/tidy");
            if imports && !allowed && !(word == "serde_saphyr" && name.starts_with("meshctl/")) {
                offenders.push(format!("{name} uses {word}, whose home is {home}"));
            }
        }
    }
    none("imports outside their one home", &offenders);
}

#[test]
fn only_the_configuration_and_the_entry_points_read_the_environment() {
    let homes = ["meshd/src/config.rs", "cni-plugin/src/main.rs", "meshctl/src/", "tests/", "crates/linux/"];
    let mut offenders = Vec::new();
    for (name, text) in rust_files() {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let reads = ["env::var", "env::vars", "env::args"].iter().any(|call| code.contains(call));
        if reads && !name.contains("/tests") && !homes.iter().any(|home| name.starts_with(home)) {
            offenders.push(name);
        }
    }
    none("files that read the environment", &offenders);
}

#[test]
fn no_test_is_switched_off_and_no_work_left_open() {
    // put together here, so that this file does not find itself
    let words =
        ["#[ignore", "#[should_panic", concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME")];
    let mut offenders = Vec::new();
    for (name, text) in rust_files() {
        if name.starts_with("tests/tidy") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) || line.contains(concat!("// TO", "DO")) {
                offenders.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("switched-off tests and open ends", &offenders);
}

#[test]
fn every_decision_has_its_five_parts_and_a_number_of_its_own() {
    let mut numbers = std::collections::BTreeMap::new();
    let mut offenders = Vec::new();
    for (name, text) in tracked_files() {
        let Some(file) = name.strip_prefix("docs/decisions/") else { continue };
        let number = file.split('-').next().unwrap_or_default().to_owned();
        if let Some(other) = numbers.insert(number, name.clone()) {
            offenders.push(format!("{name} and {other} share a number"));
        }
        let low = text.to_lowercase();
        for part in ["question", "decision", "because", "give up", "wrong"] {
            if !low.contains(part) {
                offenders.push(format!("{name} lacks its '{part}' part"));
            }
        }
    }
    assert!(numbers.len() >= 6, "only {} decisions found", numbers.len());
    none("decisions", &offenders);
}

#[test]
fn every_drop_reason_is_in_the_runbook() {
    let labels = labels_in("crates/wg/src/drop.rs");
    assert!(labels.len() > 8, "only {} drop reasons found", labels.len());
    let runbook = fs::read_to_string(root().join("docs/runbook.md")).expect("docs/runbook.md is there");
    let offenders: Vec<_> = labels.into_iter().filter(|label| !runbook.contains(&format!("`{label}`"))).collect();
    none("drop reasons without an entry in docs/runbook.md", &offenders);
}

#[test]
fn every_reason_of_filter_and_policies_is_in_the_runbook() {
    let filter = fs::read_to_string(root().join("meshd/src/kernel/filter.rs")).expect("the filter is there");
    let mut labels: Vec<String> = policy::nft::COUNTERS.iter().map(|label| (*label).to_owned()).collect();
    labels.extend(policy::Reason::ALL.map(|reason| reason.as_str().to_owned()));
    for list in ["COUNTERS: ", "PIN_COUNTERS: "] {
        let (_, rest) = filter.split_once(list).expect("the filter lists its counters");
        let (list, _) = rest.split_once("];\n").expect("the list ends");
        let names = list.split_once("= [").expect("a list").1.split('"').skip(1).step_by(2);
        labels.extend(names.map(str::to_owned));
    }
    assert!(labels.len() > 20, "only {labels:?} found");
    let runbook = fs::read_to_string(root().join("docs/runbook.md")).expect("docs/runbook.md is there");
    labels.retain(|label| !runbook.contains(&format!("`{label}`")));
    none("reasons without an entry in docs/runbook.md", &labels);
}

/// The string labels that a `=> "label"` match in this file gives.
fn labels_in(file: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(file)).expect("the file with the labels is there");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let label = |line: &str| Some(line.split("=> \"").nth(1)?.split('"').next()?.to_owned());
    code.lines().filter_map(label).collect()
}

#[test]
fn the_readme_shows_the_two_commands_and_ci_runs_the_second() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md is there");
    assert!(
        readme.contains("scripts/demo") && readme.contains("scripts/test"),
        "README.md lacks one of the two commands"
    );
    let ci = fs::read_to_string(root().join(".ci/run")).expect(".ci/run is there");
    assert!(ci.contains("scripts/test"), ".ci/run does not call scripts/test");
}

#[test]
fn every_flag_in_the_manifests_exists() {
    let config = fs::read_to_string(root().join("meshd/src/config.rs")).expect("config.rs is there");
    let mut offenders = Vec::new();
    for (name, text) in tracked_files().into_iter().filter(|(name, _)| name.starts_with("manifests/")) {
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if word.starts_with("WEFT_") && !config.contains(&format!("\"{word}\"")) {
                offenders.push(format!("{name}: {word}"));
            }
        }
    }
    none("environment names that meshd does not read", &offenders);
}

/// What docs/kubernetes.md says of versions, ports and overlays is what the code and the manifests say.
#[test]
fn the_page_about_clusters_says_what_the_code_says() {
    let read = |file: &str| fs::read_to_string(root().join(file)).expect("the file is there");
    let page = read("docs/kubernetes.md");
    // a value, where it is decided, and how the page tells it
    let between = |file: &str, before: &str, after: &str| {
        let text = read(file);
        let found =
            text.split_once(before).and_then(|(_, rest)| rest.split_once(after)).map(|(value, _)| value.to_owned());
        found.unwrap_or_else(|| panic!("{file} has no `{before}…{after}`"))
    };
    let minor = between("meshctl/src/install.rs", "MINOR_MIN: u32 = ", ";");
    let module = |file: &str, name: &str| between(&format!("tests/kube/go/{file}/go.mod"), &format!("{name} v"), "\n");
    let told = [
        format!("| Kubernetes | 1.{minor} or newer"),
        format!("tested with {}", module("kubernetes", "k8s.io/kubernetes")),
        format!(
            "containerd {}",
            module("containerd", "github.com/containerd/containerd/v2").trim_end_matches(" // indirect")
        ),
        format!("UDP {}", between("meshd/src/config.rs", "WEFT_LISTEN_PORT\", default_value_t = ", ",")),
        between("scripts/image", "\nname=", "\n"),
    ];
    let mut offenders: Vec<_> = told.into_iter().filter(|fact| !page.contains(fact.as_str())).collect();
    let chart = format!("kubeVersion: \">=1.{minor}.");
    offenders.extend((!read("manifests/chart/Chart.yaml").contains(&chart)).then_some(chart));
    for overlay in fs::read_dir(root().join("manifests/overlays")).expect("there are overlays") {
        let name = overlay.expect("an entry").file_name().to_string_lossy().into_owned();
        // by which `meshctl uninstall` goes, and nobody else
        if name != "uninstall" && !page.contains(&format!("| `{name}` |")) {
            offenders.push(format!("overlay {name}"));
        }
    }
    none("what docs/kubernetes.md does not say as the code does", &offenders);
}

/// What the table of coverage must have a line for: the prefix, and the numbers.
const REQUIRED: [(&str, &[u8]); 7] = [
    ("F", &[1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 23, 24, 25, 41]),
    ("PL-", &[1, 2, 3, 7, 10, 11, 13, 17, 18, 20, 21, 22, 23, 26]),
    ("NP-", &[1, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]),
    ("S", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    ("ID-", &[1, 2, 3, 4, 5, 6, 7, 8, 14, 15, 16, 17, 18, 20]),
    ("MF-", &[1, 5, 7, 8, 9, 10]),
    ("CN-", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]),
];

/// Every row has a line in the table of conformance, and every test that it names exists.
#[test]
fn the_table_of_conformance_names_tests_that_exist() {
    let rows = (1..=35).map(|n| format!("KS-{n:02}")).chain((1..=33).map(|n| format!("PC-{n:02}")));
    table("docs/wireguard-conformance.md", rows.filter(|row| !["PC-09", "PC-10"].contains(&row.as_str())));
}

/// Every promise that the issues list by identifier has a line, and every test that it names exists.
#[test]
fn the_table_of_coverage_names_tests_that_exist() {
    let name =
        |prefix: &str, n: &u8| if prefix.ends_with('-') { format!("{prefix}{n:02}") } else { format!("{prefix}{n}") };
    let rows = REQUIRED.iter().flat_map(|(prefix, numbers)| numbers.iter().map(move |n| name(prefix, n)));
    table("docs/coverage.md", rows);
}

/// Holds a table whose first column is a row's name and whose last column names tests against the code.
fn table(file: &str, rows: impl Iterator<Item = String>) {
    let table = fs::read_to_string(root().join(file)).expect("the table is there");
    let sources: Vec<String> = rust_files().into_iter().map(|(_, text)| text).collect();
    let exists = |name: &str| {
        let (function, case) = (format!("fn {name}("), format!("\"{name}\","));
        sources.iter().any(|text| text.contains(&function) || text.contains(&case))
    };
    let mut offenders: Vec<_> =
        rows.filter(|row| !table.contains(&format!("\n| {row} |"))).map(|row| format!("no row {row}")).collect();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let shown = line.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let names = shown.split('`').skip(1).step_by(2).filter(|name| name.contains('_'));
        let before = offenders.len();
        offenders.extend(names.clone().filter(|name| !exists(name)).map(|name| format!("no test {name}")));
        let is_promise = REQUIRED.iter().any(|(prefix, _)| line.starts_with(&format!("| {prefix}")));
        if file == "docs/coverage.md" && is_promise && offenders.len() == before && names.count() == 0 {
            offenders.push(format!("no test in: {line}"));
        }
    }
    none(file, &offenders);
}
