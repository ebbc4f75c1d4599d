//! What people install from: every overlay renders, the Helm chart renders the same, and the image holds what it must and no shell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Case;
use super::people::must;
use crate::cluster::{Cluster, ROOT};
use crate::shell::{attempt, run};

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("f41_overlays_and_the_helm_chart_render_the_same", overlays_and_chart),
    ("the_image_holds_what_it_must_and_no_shell", the_image),
];

/// What `meshctl install` is told beside `--overlay`, which the chart's values say the same of.
const TAINTED: &str = "default --startup-taint";
/// Each overlay, and the chart's values that say the same.
const OVERLAYS: [(&str, &[&str]); 7] = [
    ("default", &[]),
    (TAINTED, &["startupTaint=true"]),
    ("dual-stack", &[]),
    ("strict", &["strict=true"]),
    ("k3s", &["cni.confDir=/var/lib/rancher/k3s/agent/etc/cni/net.d", "cni.binDir=/var/lib/rancher/k3s/data/cni"]),
    ("harvester", &["cni.conflist=10-canal.conflist"]),
    ("no-policy", &["networkPolicy=false"]),
];

/// Objects by kind and name, as the API server's own reader takes them. Volumes are a map by name in a list's clothes, and a
/// merged one goes to the front.
fn objects(cluster: &Cluster, file: &Path) -> BTreeMap<String, Value> {
    let text = cluster.kubectl(&["create", "--dry-run=client", "-o", "json", "-f", &file.display().to_string()]);
    let objects = serde_json::Deserializer::from_str(&text).into_iter::<Value>().map(|object| {
        let mut object = object.expect("kubectl prints JSON");
        if let Some(volumes) = object.pointer_mut("/spec/template/spec/volumes").and_then(Value::as_array_mut) {
            volumes.sort_by_key(|volume| volume["name"].to_string());
        }
        (format!("{} {}", object["kind"], object["metadata"]["name"]), object)
    });
    objects.collect()
}

fn overlays_and_chart(cluster: &Cluster) {
    let helm = format!("{ROOT}/.tools/helm/helm");
    assert!(Path::new(&helm).exists(), "helm is not built: run scripts/setup kubernetes");
    let chart = cluster.dir.join("chart").display().to_string();
    must(cluster, "meshctl", &["install", "--chart", &chart]);
    for (overlay, values) in OVERLAYS {
        let sets: Vec<_> = values.iter().flat_map(|value| ["--set", *value]).collect();
        let version = ["--kube-version", "1.36.0"];
        let linted = run(&helm, &[&["lint", "--strict", &chart], &version[..], &sets[..]].concat());
        assert!(linted.contains("0 chart(s) failed"), "{linted}");
        let rendered = run(&helm, &[&["template", "weft", &chart, "--include-crds"], &version[..], &sets[..]].concat());
        let write = |name: &str, text: &str| {
            let file = cluster.dir.join(format!("{overlay}-{name}.yaml"));
            std::fs::write(&file, text).expect("the run's folder takes files");
            file
        };
        let by_chart = write("chart", &rendered);
        let words: Vec<_> = overlay.split(' ').collect();
        let printed = must(cluster, "meshctl", &[&["install", "--dry-run", "--overlay"], &words[..]].concat());
        if overlay != TAINTED {
            // the one file that meshctl prints is the overlay
            let rendered = cluster.kubectl(&["kustomize", &format!("{ROOT}/manifests/overlays/{overlay}")]);
            assert!(rendered == printed, "{overlay}: meshctl prints another");
        }
        let by_overlay = write("overlay", &printed);
        let (chart_objects, overlay_objects) = (objects(cluster, &by_chart), objects(cluster, &by_overlay));
        assert!(overlay_objects.len() > 12, "{overlay}: {:?}", overlay_objects.keys());
        let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&chart_objects), names(&overlay_objects), "{overlay}");
        for (name, object) in &overlay_objects {
            assert_eq!(chart_objects.get(name), Some(object), "{overlay}: {name}");
        }
        // and the server takes every object of it
        let all = by_chart.display().to_string();
        cluster.kubectl(&["apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", &all]);
    }
}

/// Every file of a folder by its path in it.
fn walk(top: &Path, folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the image") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.is_symlink() {
            walk(top, &path, out);
        } else {
            out.push(Path::new("/").join(path.strip_prefix(top).expect("it is below")));
        }
    }
}

fn the_image(cluster: &Cluster) {
    use std::os::unix::fs::PermissionsExt as _;
    let (archive, root) = (cluster.dir.join("images/weft.tar"), cluster.dir.join("image"));
    std::fs::create_dir_all(root.join("root")).expect("the run's folder takes a folder");
    let (at, inside) = (root.display().to_string(), root.join("root").display().to_string());
    run("tar", &["-C", &at, "-xf", &archive.display().to_string()]);
    run("tar", &["-C", &inside, "-xf", &format!("{at}/layer.tar")]);
    let json = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(root.join(name)).expect("the archive has it")).expect("JSON")
    };
    let manifest = json("manifest.json");
    assert_eq!(manifest[0]["RepoTags"][0], "localhost/weft:dev");
    let config = json(manifest[0]["Config"].as_str().expect("a name"));
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/local/bin/meshd"]));
    assert!(config["config"]["User"].is_null(), "the manifests say who runs it");

    let mut files = Vec::new();
    walk(Path::new(&inside), Path::new(&inside), &mut files);
    files.sort();
    let is_library = |path: &Path| path.to_string_lossy().contains(".so") && path.starts_with("/lib");
    let is_library = |path: &Path| is_library(path) || path.starts_with("/usr/lib") || path.starts_with("/lib64");
    let names: Vec<_> = files.iter().filter(|path| !is_library(path)).map(|path| path.display().to_string()).collect();
    let wanted = [
        "/etc/passwd",
        "/etc/protocols",
        "/usr/local/bin/mesh-cni",
        "/usr/local/bin/meshctl",
        "/usr/local/bin/meshd",
        "/usr/sbin/nft",
        "/var/run",
    ];
    assert_eq!(names, wanted, "what is in the image beside libraries");
    for path in &files {
        let mode = std::fs::symlink_metadata(format!("{inside}{}", path.display())).expect("it is there").permissions();
        let is_link = Path::new(&format!("{inside}{}", path.display())).is_symlink();
        assert!(is_link || mode.mode() & 0o6022 == 0, "{}: {:o}", path.display(), mode.mode());
    }
    // the plugin runs on the node's own libraries or none; the others find theirs in the image
    let headers = run("readelf", &["-lW", &format!("{inside}/usr/local/bin/mesh-cni")]);
    assert!(!headers.contains("INTERP"), "mesh-cni is not static: {headers}");
    for (program, says) in
        [("meshd", "meshd "), ("meshctl", "meshctl "), ("mesh-cni", "mesh-cni "), ("nft", "nftables ")]
    {
        let output = Command::new("chroot")
            .args([&inside, program, "--version"])
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .expect("chroot runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(says), "{program}: {said}");
    }
    assert!(!attempt("chroot", &[&inside, "/bin/sh", "-c", ":"]).status.success(), "there is a shell");
    // the Containerfile starts the same program
    let recipe = std::fs::read_to_string(format!("{ROOT}/Containerfile")).expect("it is there");
    assert!(recipe.contains("ENTRYPOINT [\"/usr/local/bin/meshd\"]") && recipe.contains("FROM scratch"), "{recipe}");
    std::fs::remove_dir_all(root).expect("it was just made");
}
