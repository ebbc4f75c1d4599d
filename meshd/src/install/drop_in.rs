//! A file of our own beside the network list: instead of an entry in the list where that says that it takes such files, and as a
//! spare one where it does not forbid them.
//!
//! ```text
//! CONF_DIR/10-pods.conflist          {"name": "pods", "loadOnlyInlinedPlugins": false, …}    not touched
//! CONF_DIR/pods/50-mesh-cni.conf     {"type": "mesh-cni"}                                    ours
//!
//! CONF_DIR/10-pods.conflist          {"name": "pods", "plugins": […, {"type": "mesh-cni"}]}  edited until the other is called
//! CONF_DIR/pods/50-mesh-cni.conf     {"type": "mesh-cni", "spare": true}                     ours
//! ```
//!
//! libcni from 1.3 appends what stands there (CNI spec 1.1, section 1), and nobody can tell from outside whether the runtime's is
//! older: hence both, until the runtime has called the one beside the list (decision 0029). Whoever rewrites the list leaves the
//! folder beside it alone (decision 0025).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Map, Value};

use super::{LIST_BYTES_MAX, PLUGIN};

/// Behind what other agents put there with a smaller number.
const FILE: &str = "50-mesh-cni.conf";
/// Folders of a folder of network lists that are looked through.
const FOLDERS_MAX: usize = 256;

/// How a list takes us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rung {
    /// It says that it takes files: ours is there, and the list is not touched.
    Beside(PathBuf),
    /// Our entry is in the list, and a spare one beside it, which runtimes with an older libcni do not read; where one reads it,
    /// the list is given back.
    Both(PathBuf),
    /// It takes no files: our entry is in the list.
    List,
}

impl Rung {
    /// What this list wants.
    pub(super) fn of(list: &Path, text: &str) -> Self {
        let Ok(conf) = serde_json::from_str::<Value>(text) else { return Self::List };
        let is_only_inline = match conf.get("loadOnlyInlinedPlugins") {
            None => None,
            Some(Value::Bool(only)) => Some(*only),
            // libcni reads it as a text too
            Some(Value::String(only)) if only.eq_ignore_ascii_case("false") => Some(false),
            Some(_) => Some(true),
        };
        let name = conf.get("name").and_then(Value::as_str).unwrap_or_default();
        let is_name = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
        let plugins = conf.get("plugins").and_then(Value::as_array);
        let has_ours = plugins.into_iter().flatten().any(|p| p.get("type").and_then(Value::as_str) == Some(PLUGIN));
        let place = list.with_file_name(name).join(FILE);
        match is_only_inline {
            Some(false) if is_name && !has_ours => Self::Beside(place),
            Some(false) | None if is_name && plugins.is_some() => Self::Both(place),
            _ => Self::List,
        }
    }

    /// Where our file goes.
    pub(super) fn place(&self) -> Option<&Path> {
        match self {
            Self::Beside(place) | Self::Both(place) => Some(place),
            Self::List => None,
        }
    }

    /// The network's name, where our file is beside its list.
    pub(super) fn network(&self) -> Option<&str> {
        self.place()?.parent()?.file_name()?.to_str()
    }

    /// What stands in it.
    pub(super) fn text(&self, entry: &Map<String, Value>) -> anyhow::Result<String> {
        let mut entry = entry.clone();
        if matches!(self, Self::Both(_)) {
            entry.insert("spare".to_owned(), Value::Bool(true));
        }
        let mut text = serde_json::to_string_pretty(&entry)?;
        text.push('\n');
        Ok(text)
    }
}

/// Whether our file is there as it should be.
pub(super) fn is_there(place: &Path, text: &str) -> bool {
    fs::metadata(place).is_ok_and(|m| m.len() <= LIST_BYTES_MAX)
        && fs::read(place).is_ok_and(|held| held == text.as_bytes())
}

/// Puts our file in place.
///
/// It comes by a rename out of the folder of lists: that is what runtimes watch, and not the folders in it.
pub(super) fn put(place: &Path, text: &str) -> anyhow::Result<()> {
    let folder = place.parent().context("a file has a folder")?;
    let cannot = || format!("cannot put {} in place", place.display());
    fs::create_dir_all(folder).with_context(cannot)?;
    let fresh = folder.with_file_name(format!(".{FILE}.new"));
    let write = || -> std::io::Result<()> {
        fs::write(&fresh, text)?;
        fs::File::open(&fresh)?.sync_all()?;
        fs::rename(&fresh, place)?;
        fs::File::open(folder)?.sync_all()
    };
    write().with_context(cannot)
}

/// Takes our files out of every folder of the folder of lists but `kept`, and a folder that is empty then.
pub(super) fn remove(conf_dir: &Path, kept: Option<&Path>) -> anyhow::Result<()> {
    let entries = fs::read_dir(conf_dir).into_iter().flatten().filter_map(Result::ok).take(FOLDERS_MAX);
    for folder in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let ours = folder.join(FILE);
        if kept == Some(ours.as_path()) || !ours.exists() {
            continue;
        }
        let gone = conf_dir.join(format!(".{FILE}.old"));
        let take = || -> std::io::Result<()> {
            fs::rename(&ours, &gone)?;
            fs::remove_file(&gone)
        };
        take().with_context(|| format!("cannot remove {}", ours.display()))?;
        // others may have files there
        let _is_used = fs::remove_dir(&folder);
    }
    Ok(())
}
