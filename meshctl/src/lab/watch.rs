//! Looks at the directory: which pods its manifests ask for. Files are read again only when they have changed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::document;
use super::pod_spec::{PodKey, PodSpec};

/// What tells one state of a file from another: inode, size, time of change.
type Stamp = (u64, u64, i64, i64);

/// What the directory asks for.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Pods by name; of two with one name, the file that sorts first wins.
    pub(super) pods: BTreeMap<PodKey, PodSpec>,
    /// What could not be used: where and why.
    pub(super) refusals: Vec<String>,
}

#[derive(Debug)]
struct FileSeen {
    stamp: Stamp,
    pods: Vec<PodSpec>,
    refusals: Vec<String>,
}

/// A folder of manifests, as seen last.
#[derive(Debug)]
pub(super) struct Watch {
    directory: PathBuf,
    files: BTreeMap<PathBuf, FileSeen>,
    is_first: bool,
}

impl Watch {
    /// Watches `directory`, of which nothing has been seen yet.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, files: BTreeMap::new(), is_first: true }
    }

    /// What the directory asks for, when that may have changed since the last look. A file that cannot be read now
    /// keeps what it said before.
    pub(super) fn look(&mut self) -> Option<Seen> {
        let mut changed = std::mem::take(&mut self.is_first);
        let present = match document::files(&self.directory) {
            Ok(present) => present,
            Err(error) => {
                return changed.then(|| Seen { refusals: vec![format!("{error:#}")], ..Seen::default() });
            }
        };
        let before = self.files.len();
        self.files.retain(|path, _| present.binary_search(path).is_ok());
        changed |= self.files.len() != before;
        for path in present {
            let Some(stamp) = stamp(&path) else { continue };
            if self.files.get(&path).is_some_and(|f| f.stamp == stamp) {
                continue;
            }
            changed = true;
            let before = self.files.remove(&path).map(|f| f.pods).unwrap_or_default();
            let seen = read(&path, stamp, &before);
            self.files.insert(path, seen);
        }
        changed.then(|| self.seen())
    }

    fn seen(&self) -> Seen {
        let mut seen = Seen::default();
        for (path, file) in &self.files {
            seen.refusals.extend(file.refusals.iter().cloned());
            for pod in &file.pods {
                if seen.pods.contains_key(&pod.key) {
                    let (namespace, name) = &pod.key;
                    seen.refusals.push(format!("{}: pod {namespace}/{name} is there twice", path.display()));
                } else {
                    seen.pods.insert(pod.key.clone(), pod.clone());
                }
            }
        }
        seen
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// Reads a file; a pod whose manifest has become unusable stays as it was.
fn read(path: &Path, stamp: Stamp, before: &[PodSpec]) -> FileSeen {
    let mut seen = FileSeen { stamp, pods: Vec::new(), refusals: Vec::new() };
    let documents = match document::read(path) {
        Ok(documents) => documents,
        Err(error) => vec![Err(error)],
    };
    for document in documents {
        let pod = document.and_then(|d| match d.object.kind.as_str() {
            "Pod" => {
                let key = (d.object.namespace.clone(), d.object.name.clone());
                let place = format!("{}: {}", path.display(), d.object);
                PodSpec::of(key, &d.value).map(Some).map_err(|e| e.context(place))
            }
            _ => Ok(None),
        });
        match pod {
            Ok(pod) => seen.pods.extend(pod),
            Err(error) => seen.refusals.push(format!("{error:#}")),
        }
    }
    if !seen.refusals.is_empty() {
        let kept: Vec<PodSpec> = before.iter().filter(|b| !seen.pods.iter().any(|p| p.key == b.key)).cloned().collect();
        seen.pods.extend(kept);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const POD: &str = "kind: Pod\nmetadata: {name: a, namespace: x}\nspec: {containers: [{name: c}]}\n";

    #[test]
    fn a_pod_is_seen_once_and_a_broken_manifest_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path().to_owned());
        assert!(watch.look().unwrap().pods.is_empty());
        assert!(watch.look().is_none(), "nothing has changed");
        let file = dir.path().join("pod.yaml");
        fs::write(&file, POD).unwrap();
        assert_eq!(watch.look().unwrap().pods.len(), 1);
        fs::write(&file, "kind: Pod\nmetadata: {name: a, namespace: x}\nspec: {containers: 7}\n").unwrap();
        let seen = watch.look().unwrap();
        assert_eq!((seen.pods.len(), seen.refusals.len()), (1, 1), "{seen:?}");
        fs::remove_file(&file).unwrap();
        assert!(watch.look().unwrap().pods.is_empty());
    }

    #[test]
    fn what_weft_writes_and_dotfiles_are_not_the_users() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("weft.dev/overlays/pods")).unwrap();
        fs::write(dir.path().join("weft.dev/overlays/pods/x.a.yaml"), POD).unwrap();
        fs::write(dir.path().join(".pod.yaml"), POD).unwrap();
        assert!(Watch::new(dir.path().to_owned()).look().unwrap().pods.is_empty());
        fs::create_dir_all(dir.path().join("deeper")).unwrap();
        fs::write(dir.path().join("deeper/pod.yml"), POD).unwrap();
        assert_eq!(Watch::new(dir.path().to_owned()).look().unwrap().pods.len(), 1);
    }
}
