//! Manifest text into documents: each with its line, its identity and its value, or with what is wrong with it. Pure.

use std::fmt;

use serde_json::Value;

/// A file over this is refused whole.
pub(super) const FILE_BYTES_MAX: u64 = 8 << 20;

/// What an object is called, whatever its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// Where it begins, from 1.
    pub(super) line: usize,
    pub(super) name: Name,
    pub(super) value: Value,
}

/// A document that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) struct Refusal {
    pub(crate) file: String,
    /// From 1; 0 when it is about the whole file.
    pub(crate) line: usize,
    pub(crate) reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.reason),
            line => write!(f, "{}:{line}: {}", self.file, self.reason),
        }
    }
}

/// Every document of a text, YAML or JSON (which is YAML too); `List` kinds are unfolded.
pub(super) fn documents(text: &str) -> Vec<Result<Document, (usize, String)>> {
    let mut found = Vec::new();
    for (line, chunk) in chunks(text) {
        match serde_saphyr::from_str::<Value>(&chunk) {
            Ok(Value::Null) => {}
            Ok(value) => unfold(line, value, &mut found),
            Err(error) => {
                let within = error.location().map_or(0, |at| usize::try_from(at.line()).unwrap_or(0).saturating_sub(1));
                let text = error.to_string();
                let reason = text.lines().next().unwrap_or("unreadable").to_owned();
                found.push(Err((line + within, format!("this is no YAML: {reason}"))));
            }
        }
    }
    found
}

/// The text between `---` lines, with the line that each begins at.
fn chunks(text: &str) -> Vec<(usize, String)> {
    let mut chunks = vec![(1, String::new())];
    for (number, line) in text.lines().enumerate() {
        let is_marker = line == "---" || line.starts_with("--- ");
        if is_marker {
            chunks.push((number + 2, String::new()));
        } else if let Some((begin, chunk)) = chunks.last_mut() {
            let blank = line.trim().is_empty() || line.trim_start().starts_with('#');
            if chunk.is_empty() && blank {
                *begin = number + 2;
            } else {
                chunk.push_str(line);
                chunk.push('\n');
            }
        }
    }
    chunks.retain(|(_, chunk)| !chunk.trim().is_empty());
    chunks
}

fn unfold(line: usize, mut value: Value, found: &mut Vec<Result<Document, (usize, String)>>) {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    if let (true, Some(items)) = (is_list, value.get_mut("items").and_then(Value::as_array_mut)) {
        for item in std::mem::take(items) {
            unfold(line, item, found);
        }
        return;
    }
    found.push(name_of(&value).map(|name| Document { line, name, value }).map_err(|reason| (line, reason)));
}

fn name_of(value: &Value) -> Result<Name, String> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let metadata = value.get("metadata");
    let kind = text(value.get("kind"));
    let name = text(metadata.and_then(|m| m.get("name")));
    let namespace = text(metadata.and_then(|m| m.get("namespace")));
    if kind.is_empty() {
        return Err("it has no `kind`: every document needs apiVersion, kind and metadata.name".to_owned());
    }
    if !is_dns_name(&name) {
        return Err(format!(
            "{kind} `{name}`: metadata.name is an RFC 1123 subdomain (a-z, 0-9, '-', '.', at most 253)"
        ));
    }
    if !namespace.is_empty() && (namespace.len() > 63 || !is_dns_name(&namespace) || namespace.contains('.')) {
        return Err(format!("{kind} `{name}`: metadata.namespace `{namespace}` is no RFC 1123 label (at most 63)"));
    }
    Ok(Name { kind, namespace, name })
}

/// Whether a name is an RFC 1123 subdomain.
pub(super) fn is_dns_name(name: &str) -> bool {
    let label = |l: &str| {
        let good = l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !l.is_empty() && good && !l.starts_with('-') && !l.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_document_knows_its_line_and_a_bad_one_disturbs_no_other() {
        let text = "# hello\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n\nkind: [\n---\nkind: Pod\nmetadata:\n  name: b\n  namespace: ns\n";
        let found = documents(text);
        assert_eq!(found.len(), 3);
        let first = found[0].as_ref().unwrap();
        assert_eq!((first.line, first.name.kind.as_str()), (2, "Namespace"));
        let (line, reason) = found[1].as_ref().unwrap_err();
        assert!((7..=8).contains(line) && reason.contains("no YAML"), "{line} {reason}");
        let third = found[2].as_ref().unwrap();
        assert_eq!((third.line, third.name.namespace.as_str()), (9, "ns"));
    }

    #[test]
    fn lists_and_json_are_read_too() {
        let text = r#"{"kind":"List","items":[{"kind":"Pod","metadata":{"name":"a"}},{"kind":"Pod","metadata":{"name":"b"}}]}"#;
        assert_eq!(documents(text).into_iter().filter_map(Result::ok).count(), 2);
    }

    #[test]
    fn id_17_names_are_exact_and_patterns_are_none() {
        for bad in ["*", "a*", "[a]", "a%2fb", "..", "A", "a/b", "", &"a".repeat(254)] {
            let text = serde_json::json!({"kind": "Pod", "metadata": {"name": bad}}).to_string();
            assert!(documents(&text)[0].is_err(), "{bad} was taken");
        }
        for bad in ["a.b", &"a".repeat(64)] {
            let text = serde_json::json!({"kind": "Pod", "metadata": {"name": "a", "namespace": bad}}).to_string();
            assert!(documents(&text)[0].is_err(), "{bad} was taken");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ -~\n]{0,200}") {
            documents(&text);
        }
    }
}
