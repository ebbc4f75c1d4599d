//! Manifests as text: files cut into documents, documents read as data, each object with its name and its place.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// What an object is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectName {
    /// `Pod`, `PeerAuthentication`, …
    pub(crate) kind: String,
    /// Empty for kinds without one.
    pub(crate) namespace: String,
    /// `metadata.name`.
    pub(crate) name: String,
}

/// One object of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// What it is called.
    pub(crate) object: ObjectName,
    /// As it was written, or as JSON for an item of a List.
    pub(crate) text: String,
    /// As data.
    pub(crate) value: Value,
}

/// The kinds of core Kubernetes and of Weft that belong to no namespace.
const CLUSTER_KINDS: [&str; 8] = [
    "Namespace",
    "Node",
    "MeshNode",
    "MeshEndpointSlice",
    "MeshTrust",
    "MeshExport",
    "NetworkService",
    "PersistentVolume",
];

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.to_lowercase();
        match self.namespace.as_str() {
            "" => write!(f, "{kind}/{}", self.name),
            namespace => write!(f, "{kind}/{namespace}/{}", self.name),
        }
    }
}

impl ObjectName {
    /// What `kind/name` or `kind/namespace/name` of the command line means, with `-n` as the default namespace.
    ///
    /// # Errors
    /// The text has no slash, or too many.
    pub(crate) fn parse(text: &str, namespace: &str) -> anyhow::Result<Self> {
        let (kind, namespace, name) = match text.split('/').collect::<Vec<_>>().as_slice() {
            [kind, name] => (*kind, namespace, *name),
            [kind, namespace, name] => (*kind, *namespace, *name),
            _ => bail!("`{text}` names no object: kind/name or kind/namespace/name, for example pod/demo/client"),
        };
        let is_cluster = CLUSTER_KINDS.iter().any(|k| k.eq_ignore_ascii_case(kind));
        let namespace = if is_cluster { "" } else { namespace };
        Ok(Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Whether both name the same object; kinds are compared as people type them, without regard to case.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.kind.eq_ignore_ascii_case(&other.kind) && self.namespace == other.namespace && self.name == other.name
    }

    /// Whether this object goes with the namespace of that name.
    pub(crate) fn is_in(&self, namespace: &str) -> bool {
        self.namespace == namespace || (self.kind == "Namespace" && self.name == namespace)
    }

    /// The file that `lab apply` keeps it in.
    pub(crate) fn file_name(&self) -> String {
        let namespace = if self.namespace.is_empty() { "_" } else { &self.namespace };
        format!("{}.{namespace}.{}.yaml", self.kind.to_lowercase(), self.name)
    }
}

/// Every manifest file under `place` (or `place` itself), sorted, dotfiles and Weft's own objects left out.
///
/// # Errors
/// A folder cannot be read.
pub(crate) fn files(place: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if place.is_file() {
        return Ok(vec![place.to_owned()]);
    }
    let mut found = Vec::new();
    let mut folders = vec![(place.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let shown = || format!("cannot read {}", folder.display());
        for entry in std::fs::read_dir(&folder).with_context(shown)? {
            let path = entry.with_context(shown)?.path();
            let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
            let own = depth == 0 && path.ends_with("weft.dev");
            if hidden || own {
                continue;
            }
            if path.is_dir() {
                if depth < 16 {
                    folders.push((path, depth + 1));
                }
            } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a file's documents. A bad one does not hide the others: it becomes an error that names file, line and reason.
///
/// # Errors
/// The file itself cannot be read.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<anyhow::Result<Document>>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(parse(&text, &path.display().to_string()))
}

/// Reads the documents of a text; `place` is what errors call it.
pub(crate) fn parse(text: &str, place: &str) -> Vec<anyhow::Result<Document>> {
    let mut documents = Vec::new();
    for (line, part) in split(text) {
        let at = || format!("{place}, document at line {line}");
        // YAML 1.2: `y` and `on` are names, not truths
        let strict = serde_saphyr::options! { strict_booleans: true };
        let value: Value = match serde_saphyr::from_str_with_options(&part, strict).with_context(at) {
            Ok(value) => value,
            Err(error) => {
                documents.push(Err(error));
                continue;
            }
        };
        match (&value, value.get("items").and_then(Value::as_array)) {
            (Value::Null, _) => {}
            (_, Some(items)) => {
                documents.extend(items.iter().map(|i| document(i.clone(), i.to_string()).with_context(at)));
            }
            (_, None) => documents.push(document(value, part).with_context(at)),
        }
    }
    documents
}

fn document(value: Value, text: String) -> anyhow::Result<Document> {
    let field = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let kind = field("/kind").context("`kind` is missing")?;
    let name = field("/metadata/name").context("`metadata.name` is missing")?;
    if name.is_empty() || name.contains(['/', '\0']) || kind.is_empty() || kind.contains(['/', '.', '\0']) {
        bail!("`{kind}` `{name}` cannot be the kind and the name of an object");
    }
    let namespace = if CLUSTER_KINDS.contains(&kind.as_str()) {
        String::new()
    } else {
        match value.pointer("/metadata/namespace") {
            None | Some(Value::Null) => "default".to_owned(),
            Some(namespace) => namespace.as_str().context("`metadata.namespace` is no text: quote it")?.to_owned(),
        }
    };
    if namespace.contains(['/', '\0']) {
        bail!("`{namespace}` cannot be the name of a namespace");
    }
    Ok(Document { object: ObjectName { kind, namespace, name }, text, value })
}

/// Cuts a text at its `---` lines: each part with the line it begins at.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut parts = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r'])) {
            parts.push((index + 2, String::new()));
            // `--- # why` and `--- {kind: …}` carry text behind the mark
            if let Some((_, part)) = parts.last_mut() {
                part.push_str(line.get(3..).unwrap_or_default());
                part.push('\n');
            }
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts.retain(|(_, part)| !part.trim().is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_document_does_not_hide_its_neighbours() {
        let text = "kind: Pod\nmetadata: {name: a, namespace: x}\n---\nkind: [\n---\n# nothing\n---\nkind: Pod\n---\n\
                    kind: Namespace\nmetadata:\n  name: x\n";
        let read = parse(text, "f.yaml");
        let shown: Vec<String> = read
            .iter()
            .map(|d| match d {
                Ok(d) => d.object.to_string(),
                Err(e) => format!("{e:#}").lines().next().unwrap_or_default().to_owned(),
            })
            .collect();
        assert_eq!(shown[0], "pod/x/a");
        assert!(shown[1].starts_with("f.yaml, document at line 4"), "{}", shown[1]);
        assert_eq!(shown[2], "f.yaml, document at line 8: `metadata.name` is missing");
        assert_eq!(shown[3], "namespace/x");
        assert_eq!(shown.len(), 4);
    }

    #[test]
    fn a_list_is_its_items_and_quoted_numbers_stay_text() {
        let read = parse("kind: List\nitems:\n- {kind: Pod, metadata: {name: a, labels: {v: \"1\"}}}\n", "f");
        let [Ok(pod)] = read.as_slice() else { panic!("{read:?}") };
        assert_eq!(pod.object.to_string(), "pod/default/a");
        assert_eq!(pod.value.pointer("/metadata/labels/v"), Some(&Value::from("1")));
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        for bad in ["../x", "a/b"] {
            let read = parse(&format!("kind: Pod\nmetadata: {{name: {bad}}}\n"), "f");
            assert!(read[0].is_err(), "{bad}");
        }
    }

    #[test]
    fn what_people_type_names_the_object() {
        let typed = ObjectName::parse("pod/a", "demo").unwrap();
        let read = parse("kind: Pod\nmetadata: {name: a, namespace: demo}", "f").remove(0).unwrap();
        assert!(typed.is_same(&read.object));
        assert_eq!(ObjectName::parse("namespace/x", "demo").unwrap().namespace, "");
        assert!(ObjectName::parse("client", "demo").is_err());
    }
}
