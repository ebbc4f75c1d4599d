//! The Helm chart, made from the very manifests that kustomize reads: their text, with values put in at named places.
//!
//! ```text
//! Chart.yaml  values.yaml  crds/crds.yaml  templates/{namespace,rbac,admission,controller,node,strict,startup-taint}.yaml  templates/NOTES.txt
//! ```
//!
//! With the values as they are the chart renders what `manifests/overlays/default` does; each overlay is a few values.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::manifests::manifest;

/// One place of a manifest that a value decides: the lines as they are, and the lines of the template.
struct Place {
    file: &'static str,
    plain: &'static str,
    template: &'static str,
}

/// Every place. Each is in its file exactly once, or the chart is not made.
const PLACES: [Place; 8] = [
    Place { file: "controller", plain: "  replicas: 2\n", template: "  replicas: {{ .Values.controller.replicas }}\n" },
    Place {
        file: "controller",
        plain: "          image: localhost/weft:dev\n          imagePullPolicy: IfNotPresent\n",
        template: IMAGE,
    },
    Place {
        file: "controller",
        plain: "          resources:\n            requests: {cpu: 50m, memory: 64Mi}\n            limits: {memory: 384Mi}\n",
        template: "          resources: {{- toYaml .Values.controller.resources | nindent 12 }}\n",
    },
    Place {
        file: "node",
        plain: "          image: localhost/weft:dev\n          imagePullPolicy: IfNotPresent\n",
        template: IMAGE,
    },
    Place {
        file: "node",
        plain: "            - {name: WEFT_CNI_BIN_DIR, value: /host/cni/bin}\n",
        template: "            - {name: WEFT_CNI_BIN_DIR, value: /host/cni/bin}\n\
            {{- with .Values.cni.conflist }}\n            - {name: WEFT_CNI_CONFLIST, value: {{ . | quote }}}\n{{- end }}\n\
            {{- if not .Values.networkPolicy }}\n            - {name: WEFT_NO_NETWORK_POLICY, value: \"true\"}\n{{- end }}\n\
            {{- if .Values.startupTaint }}\n            - {name: WEFT_STARTUP_TAINT, value: \"true\"}\n{{- end }}\n",
    },
    Place {
        file: "node",
        plain: "          resources:\n            requests: {cpu: 50m, memory: 64Mi}\n            limits: {memory: 256Mi}\n",
        template: "          resources: {{- toYaml .Values.node.resources | nindent 12 }}\n",
    },
    Place {
        file: "node",
        plain: "hostPath: {path: /etc/cni/net.d,",
        template: "hostPath: {path: {{ .Values.cni.confDir | quote }},",
    },
    Place {
        file: "node",
        plain: "hostPath: {path: /opt/cni/bin,",
        template: "hostPath: {path: {{ .Values.cni.binDir | quote }},",
    },
];

const IMAGE: &str = "          image: {{ printf \"%s:%s\" .Values.image.repository .Values.image.tag | quote }}\n\
    \x20         imagePullPolicy: {{ .Values.image.pullPolicy }}\n";

const VALUES: &str = "\
# Values of Weft's chart. As they are, it renders manifests/overlays/default.
image:
  repository: localhost/weft
  tag: dev
  pullPolicy: IfNotPresent
cni:
  # where the runtime reads network lists and plugins; k3s: /var/lib/rancher/k3s/agent/etc/cni/net.d and /var/lib/rancher/k3s/data/cni
  confDir: /etc/cni/net.d
  binDir: /opt/cni/bin
  # name of the network list, where it is not the first of its folder; Harvester: 10-canal.conflist
  conflist: \"\"
# whether NetworkPolicy is enforced by Weft; false where the primary network does it
networkPolicy: true
# whether every enrolled workload takes nothing but the mesh from the start
strict: false
# whether nodes come with the taint weft.dev/not-ready, which the daemon takes off once it serves (manifests/components/startup-taint)
startupTaint: false
controller:
  # one leads, the others wait for its lease
  replicas: 2
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 384Mi}
node:
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 256Mi}
";

/// What Helm says after an installation.
const NOTES: &str = "\
Weft comes to every node: kubectl -n weft-system rollout status daemonset/weft-node, or meshctl check
Enrol a namespace:        kubectl label namespace NAME weft.dev/mesh=enabled
Take Weft away:           meshctl uninstall --yes, and only then helm uninstall {{ .Release.Name }} -n {{ .Release.Namespace }}

helm uninstall alone deletes objects and cleans no node: mesh-cni would stay in the runtime's network list, and no new pod would start.
";

/// The chart's files, by their path in it.
///
/// # Errors
/// A manifest has changed so that a value finds its place no more; the message names both.
pub(crate) fn files() -> anyhow::Result<Vec<(String, String)>> {
    let version = env!("CARGO_PKG_VERSION");
    let chart = format!(
        "# Made by `meshctl install --chart`; do not edit.\napiVersion: v2\nname: weft\ndescription: Identity-keyed encryption and policy \
         between pods\ntype: application\nversion: {version}\nappVersion: {version}\nkubeVersion: \">=1.30.0-0\"\n"
    );
    let mut out = vec![
        ("Chart.yaml".to_owned(), chart),
        ("values.yaml".to_owned(), VALUES.to_owned()),
        ("crds/crds.yaml".to_owned(), manifest("base/crds.yaml")?.to_owned()),
    ];
    for file in ["namespace", "rbac", "admission", "controller", "node"] {
        out.push((format!("templates/{file}.yaml"), template(file)?));
    }
    out.push(("templates/NOTES.txt".to_owned(), NOTES.to_owned()));
    let strict = manifest("overlays/strict/strict.yaml")?;
    let (rights, admission) =
        (manifest("components/startup-taint/rbac.yaml")?, manifest("components/startup-taint/admission.yaml")?);
    let taint = format!("{{{{- if .Values.startupTaint }}}}\n{rights}---\n{admission}{{{{- end }}}}\n");
    out.push(("templates/startup-taint.yaml".to_owned(), taint));
    out.push(("templates/strict.yaml".to_owned(), format!("{{{{- if .Values.strict }}}}\n{strict}{{{{- end }}}}\n")));
    Ok(out)
}

fn template(file: &str) -> anyhow::Result<String> {
    let mut text = manifest(&format!("base/{file}.yaml"))?.to_owned();
    ensure!(!text.contains("{{"), "base/{file}.yaml has `{{{{`, which Helm would read as its own");
    for place in PLACES.iter().filter(|place| place.file == file) {
        let count = text.matches(place.plain).count();
        ensure!(count == 1, "base/{file}.yaml has `{}` {count} times and not once: see PLACES", place.plain.trim());
        text = text.replace(place.plain, place.template);
    }
    Ok(text)
}

/// Writes the chart into a folder, which need not be there; files of ours that are there are replaced.
///
/// # Errors
/// It cannot be made or written.
pub(crate) fn write(folder: &Path) -> anyhow::Result<()> {
    for (name, text) in files()? {
        let path = folder.join(name);
        let parent = path.parent().context("a chart's file is in a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_in_the_repository_is_the_one_that_is_made() {
        let top = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/chart");
        let mut held = Vec::new();
        let mut folders = vec![Path::new(top).to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(top).unwrap().display().to_string();
                    held.push((name, fs::read_to_string(path).unwrap()));
                }
            }
        }
        let mut made = files().unwrap();
        held.sort();
        made.sort();
        assert!(held == made, "make it anew: meshctl install --chart manifests/chart");
    }

    #[test]
    fn every_value_is_used_and_every_use_has_a_value() {
        let made = files().unwrap();
        let all: String = made.iter().map(|(_, text)| text.as_str()).collect();
        let of = |path: &str| all.contains(&format!(".Values.{path} ")) || all.contains(&format!(".Values.{path}}}"));
        for path in [
            "image.repository",
            "image.tag",
            "image.pullPolicy",
            "cni.confDir",
            "cni.binDir",
            "cni.conflist",
            "networkPolicy",
            "strict",
            "startupTaint",
            "controller.replicas",
            "controller.resources",
            "node.resources",
        ] {
            assert!(of(path), "{path} is not used");
            let last = path.rsplit('.').next().unwrap();
            assert!(VALUES.contains(&format!("{last}:")), "{path} has no value");
        }
        assert_eq!(all.matches(".Values.").count(), 16, "a use that this test does not know");
    }
}
