//! DELs that found nobody home: written by the plugin as plain JSON, replayed by the daemon at its start.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::atomic::remove_durably;
use super::error::{Damage, StoreError};
use super::private::{Privacy, open_private_dir, read_bounded};

/// Longest tombstone, in bytes.
const TOMBSTONE_LENGTH_MAX: u64 = 64 * 1024;
/// Most tombstones that one listing answers; the rest come with the next.
pub(crate) const TOMBSTONES_LISTED_MAX: usize = 4096;
const REMEDY: &str = "remove the file: what it should have told is found out by the runtime's garbage collection";

/// The folder of tombstones.
pub(crate) struct Tombstones {
    dir: PathBuf,
}

/// One DEL that is still to be done.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Tombstone {
    /// The container.
    #[serde(rename = "containerID")]
    pub(crate) container_id: String,
    /// The interface in it.
    pub(crate) ifname: String,
    /// Its network namespace's path, where the runtime told.
    #[serde(default)]
    pub(crate) netns: Option<String>,
    #[serde(skip)]
    path: PathBuf,
}

impl Tombstones {
    /// Opens a folder of tombstones, making it where it is missing.
    ///
    /// # Errors
    /// Not to be made, or others can write in it.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        open_private_dir(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// All that wait (at most [`TOMBSTONES_LISTED_MAX`]), and what is wrong with the files that cannot be read.
    ///
    /// # Errors
    /// The folder itself cannot be read.
    pub(crate) fn list(&self) -> Result<(Vec<Tombstone>, Vec<StoreError>), StoreError> {
        let (mut found, mut refused) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.dir).map_err(StoreError::io("list", &self.dir))? {
            let path = entry.map_err(StoreError::io("list", &self.dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('.') || !name.ends_with(".json") {
                continue;
            }
            if found.len() == TOMBSTONES_LISTED_MAX {
                break;
            }
            match read(&path) {
                Ok(Some(tombstone)) => found.push(tombstone),
                Ok(None) => {}
                Err(error) => refused.push(error),
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((found, refused))
    }

    /// Whether a tombstone still waits.
    #[expect(clippy::unused_self, reason = "a tombstone is in the folder that listed it")]
    pub(crate) fn is_there(&self, tombstone: &Tombstone) -> bool {
        tombstone.path.exists()
    }

    /// Removes a tombstone whose DEL is done.
    ///
    /// # Errors
    /// The file cannot be removed: it will be replayed once more, which does nothing.
    #[expect(clippy::unused_self, reason = "a tombstone is removed from the folder that listed it")]
    pub(crate) fn remove(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
        remove_durably(&tombstone.path)
    }
}

/// `None` where it has just been removed.
fn read(path: &Path) -> Result<Option<Tombstone>, StoreError> {
    let Some(bytes) = read_bounded(path, TOMBSTONE_LENGTH_MAX, Privacy::Public, REMEDY)? else {
        return Ok(None);
    };
    let damaged = |reason: String| StoreError::damaged(path, Damage::Content { reason }, REMEDY);
    let mut tombstone: Tombstone = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if tombstone.container_id.is_empty() || tombstone.ifname.is_empty() {
        return Err(damaged("containerID and ifname must not be empty".to_owned()));
    }
    path.clone_into(&mut tombstone.path);
    Ok(Some(tombstone))
}

#[cfg(test)]
mod tests;
