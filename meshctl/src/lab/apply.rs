//! `meshctl lab apply` and `delete`: objects into and out of the lab's directory, one file each.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::document::{self, Document, ObjectName};
use super::facts::write_whole;
use super::layout::Layout;
use super::pick::LabChoice;
use crate::screen;

/// `meshctl lab apply`.
#[derive(Debug, clap::Args)]
pub(super) struct ApplyArgs {
    /// A manifest, a folder of manifests, or - for stdin; may be given several times.
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    lab: LabChoice,
}

/// `meshctl lab delete`.
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    /// kind/name or kind/namespace/name, for example pod/demo/client.
    #[arg(value_name = "KIND/NAME", required_unless_present = "files")]
    objects: Vec<String>,
    /// Everything that these manifests name.
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// The namespace of kind/name.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    lab: LabChoice,
}

/// Applies manifests: all of them, or none when one of them cannot be read.
///
/// # Errors
/// A manifest cannot be read: file, line and reason.
pub(super) fn run(args: &ApplyArgs) -> anyhow::Result<()> {
    let lab = args.lab.open()?;
    for object in apply_files(&lab.layout, &args.files)? {
        screen::out(&format!("{object} applied"))?;
    }
    Ok(())
}

/// Deletes objects. One that is not there is an error, but the others go.
///
/// # Errors
/// No manifest names one of the objects.
pub(super) fn delete(args: &DeleteArgs) -> anyhow::Result<()> {
    let lab = args.lab.open()?;
    let mut objects = Vec::new();
    for text in &args.objects {
        objects.push(ObjectName::parse(text, &args.namespace)?);
    }
    objects.extend(read_all(&args.files)?.into_iter().map(|d| d.object));
    let mut unknown = Vec::new();
    for object in &objects {
        let with_namespace = object.kind.eq_ignore_ascii_case("namespace");
        let goes = |o: &ObjectName| o.is_same(object) || (with_namespace && o.is_in(&object.name));
        match remove(&lab.layout, &goes, None)? {
            0 => unknown.push(object.to_string()),
            _ => screen::out(&format!("{object} deleted"))?,
        }
    }
    ensure!(unknown.is_empty(), "no manifest in {} names {}", lab.layout.directory().display(), unknown.join(", "));
    Ok(())
}

/// Puts the objects of files and folders into the directory.
///
/// # Errors
/// As [`run`].
pub(super) fn apply_files(layout: &Layout, files: &[PathBuf]) -> anyhow::Result<Vec<ObjectName>> {
    write_all(layout, read_all(files)?)
}

/// Puts the objects of a text into the directory.
///
/// # Errors
/// As [`run`].
pub(super) fn apply_text(layout: &Layout, text: &str, place: &str) -> anyhow::Result<Vec<ObjectName>> {
    write_all(layout, document::parse(text, place).into_iter().collect::<anyhow::Result<_>>()?)
}

fn read_all(files: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for place in files {
        if place == Path::new("-") {
            let text = std::io::read_to_string(std::io::stdin()).context("cannot read stdin")?;
            documents.extend(document::parse(&text, "stdin"));
            continue;
        }
        let found = document::files(place)?;
        ensure!(!found.is_empty(), "{} has no .yaml, .yml or .json file", place.display());
        for file in found {
            documents.extend(document::read(&file)?);
        }
    }
    let (good, bad): (Vec<_>, Vec<_>) = documents.into_iter().partition(Result::is_ok);
    let bad: Vec<String> = bad.into_iter().filter_map(|d| Some(format!("{:#}", d.err()?))).collect();
    if !bad.is_empty() {
        bail!("nothing was applied: {}", bad.join("; "));
    }
    Ok(good.into_iter().flatten().collect())
}

fn write_all(layout: &Layout, documents: Vec<Document>) -> anyhow::Result<Vec<ObjectName>> {
    let folder = layout.applied();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut objects = Vec::new();
    for document in documents {
        let file = folder.join(document.object.file_name());
        write_whole(&file, document.text.as_bytes())?;
        // an object has one place: this one from now on
        remove(layout, &|o| o.is_same(&document.object), Some(&file))?;
        objects.push(document.object);
    }
    Ok(objects)
}

/// Takes every object that `goes` out of the directory's manifests but `but`; how many there were.
fn remove(layout: &Layout, goes: &dyn Fn(&ObjectName) -> bool, but: Option<&Path>) -> anyhow::Result<usize> {
    let mut count = 0;
    for file in document::files(&layout.directory())? {
        if Some(file.as_path()) == but {
            continue;
        }
        let documents = document::read(&file)?;
        // a file with an unreadable part is left alone: rewriting it would lose that part
        let Ok(documents) = documents.into_iter().collect::<anyhow::Result<Vec<Document>>>() else { continue };
        let (gone, kept): (Vec<Document>, Vec<Document>) = documents.into_iter().partition(|d| goes(&d.object));
        count += gone.len();
        if gone.is_empty() {
            continue;
        }
        if kept.is_empty() {
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        } else {
            let text: Vec<String> = kept.into_iter().map(|d| d.text).collect();
            write_whole(&file, text.join("\n---\n").as_bytes())?;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(layout: &Layout) -> Vec<String> {
        let files = document::files(&layout.directory()).unwrap();
        let read = files.iter().flat_map(|f| document::read(f).unwrap());
        let mut names: Vec<String> = read.map(|d| d.unwrap().object.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_object_has_one_place_and_a_namespace_takes_its_objects_along() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.directory()).unwrap();
        let both = "kind: Pod\nmetadata: {name: a, namespace: x}\n---\nkind: Pod\nmetadata: {name: b, namespace: y}\n";
        fs::write(layout.directory().join("mine.yaml"), both).unwrap();
        apply_text(&layout, "kind: Pod\nmetadata: {name: a, namespace: x, labels: {new: \"1\"}}\n", "t").unwrap();
        apply_text(&layout, "kind: Namespace\nmetadata: {name: x}\n", "t").unwrap();
        assert_eq!(names(&layout), ["namespace/x", "pod/x/a", "pod/y/b"]);
        let gone = remove(&layout, &|o| o.is_in("x"), None).unwrap();
        assert_eq!((gone, names(&layout)), (2, vec!["pod/y/b".to_owned()]));
    }

    #[test]
    fn one_bad_document_and_nothing_is_applied() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.directory()).unwrap();
        let text = "kind: Pod\nmetadata: {name: a}\n---\nkind: Pod\n";
        let error = apply_text(&layout, text, "f.yaml").unwrap_err();
        assert!(format!("{error:#}").contains("f.yaml, document at line 4"), "{error:#}");
        assert!(names(&layout).is_empty());
    }
}
