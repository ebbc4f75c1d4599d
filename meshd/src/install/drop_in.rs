//! The first rung of the ladder: a file of our own beside the network list, where that list says that it takes such files.
//!
//! ```text
//! CONF_DIR/10-pods.conflist          {"name": "pods", "loadOnlyInlinedPlugins": false, …}    not touched
//! CONF_DIR/pods/50-mesh-cni.conf     {"type": "mesh-cni"}                                    ours
//! ```
//!
//! libcni from 1.3 appends what stands there (CNI spec 1.1, section 1). A list that does not say so is edited instead:
//! nobody can tell from outside whether the runtime's libcni is older.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Map, Value};

use super::{LIST_BYTES_MAX, PLUGIN};

/// Behind what other agents put there with a smaller number.
const FILE: &str = "50-mesh-cni.conf";
/// Folders of a folder of network lists that are looked through.
const FOLDERS_MAX: usize = 256;

/// Where our file goes for this list; `None` where the list does not take files, or holds our entry itself.
pub(super) fn place(list: &Path, text: &str) -> Option<PathBuf> {
    let conf: Value = serde_json::from_str(text).ok()?;
    let is_declared = match conf.get("loadOnlyInlinedPlugins")? {
        Value::Bool(only) => !only,
        // libcni reads it as a text too
        Value::String(only) => only.eq_ignore_ascii_case("false"),
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => false,
    };
    let name = conf.get("name")?.as_str()?;
    let is_name = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    let plugins = conf.get("plugins").and_then(Value::as_array);
    let has_ours = plugins.into_iter().flatten().any(|p| p.get("type").and_then(Value::as_str) == Some(PLUGIN));
    (is_declared && is_name && !has_ours).then(|| list.with_file_name(name).join(FILE))
}

/// Puts our file in place; true where it was missing or another.
///
/// It comes by a rename out of the folder of lists: that is what runtimes watch, and not the folders in it.
pub(super) fn put(place: &Path, entry: &Map<String, Value>) -> anyhow::Result<bool> {
    let mut text = serde_json::to_string_pretty(entry)?;
    text.push('\n');
    if fs::metadata(place).is_ok_and(|m| m.len() <= LIST_BYTES_MAX)
        && fs::read(place).is_ok_and(|held| held == text.as_bytes())
    {
        return Ok(false);
    }
    let folder = place.parent().context("a file has a folder")?;
    let cannot = || format!("cannot put {} in place", place.display());
    fs::create_dir_all(folder).with_context(cannot)?;
    let fresh = folder.with_file_name(format!(".{FILE}.new"));
    let write = || -> std::io::Result<()> {
        fs::write(&fresh, &text)?;
        fs::File::open(&fresh)?.sync_all()?;
        fs::rename(&fresh, place)?;
        fs::File::open(folder)?.sync_all()
    };
    write().with_context(cannot)?;
    Ok(true)
}

/// Takes our files out of every folder of the folder of lists, and a folder that is empty then.
pub(super) fn remove(conf_dir: &Path) -> anyhow::Result<()> {
    let entries = fs::read_dir(conf_dir).into_iter().flatten().filter_map(Result::ok).take(FOLDERS_MAX);
    for folder in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let ours = folder.join(FILE);
        if !ours.exists() {
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
