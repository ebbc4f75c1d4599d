//! One checked file per attached interface: what a restarted daemon still knows of its workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::atomic::{TEMPORARY_SUFFIX, remove_durably};
use super::checked::{Kind, load, save};
use super::error::{Damage, StoreError};
use super::private::{open_private_dir, sweep};

const ATTACHMENT: Kind = Kind {
    name: "attachment",
    version: 1,
    remedy: "its pod stays fenced off until it is started anew; delete the pod, or remove the file",
};

/// Longest container ID that can be part of a file name, with room for an interface name and `@`.
const CONTAINER_ID_LENGTH_MAX: usize = 200;
/// IFNAMSIZ without its NUL (linux/if.h).
const IFNAME_LENGTH_MAX: usize = 15;

/// The attachments of a node: what is in memory is what counts, what is on disk is for the next start.
///
/// What is saved is on disk before it is in memory; what is removed is gone from memory even when the disk refuses,
/// and its file is tried again.
pub(crate) struct AttachmentStore<T> {
    dir: PathBuf,
    owner: String,
    records: BTreeMap<Key, T>,
    /// Counts the changes of `records`.
    number: u64,
    unremoved: BTreeSet<Key>,
}

/// Container ID and interface name.
pub(crate) type Key = (String, String);

/// What became of a removal.
pub(crate) struct Removed<T> {
    /// What was attached; `None` where nothing was known.
    pub(crate) record: Option<T>,
    /// Whether its file is gone too. On error it is tried again by [`AttachmentStore::retry_removals`].
    pub(crate) on_disk: Result<(), StoreError>,
}

/// The written form: the file says itself what it is about, so that a renamed one is found out.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written<T> {
    container_id: String,
    ifname: String,
    record: T,
}

impl<T: Serialize + DeserializeOwned> AttachmentStore<T> {
    /// Opens `<state_dir>/attachments` and reads all. Files that cannot be believed are left where they are and
    /// answered one by one: the others still count.
    ///
    /// # Errors
    /// The directory itself cannot be used.
    pub(crate) fn open(state_dir: &Path, node_uid: &str) -> Result<(Self, Vec<StoreError>), StoreError> {
        let dir = state_dir.join("attachments");
        open_private_dir(&dir)?;
        sweep(&dir)?;
        let mut store =
            Self { dir, owner: node_uid.to_owned(), records: BTreeMap::new(), number: 0, unremoved: BTreeSet::new() };
        let mut refused = Vec::new();
        for entry in fs::read_dir(&store.dir).map_err(StoreError::io("list", &store.dir))? {
            let path = entry.map_err(StoreError::io("list", &store.dir))?.path();
            match store.read(&path) {
                Ok(Some((key, record))) => {
                    store.records.insert(key, record);
                }
                Ok(None) => {}
                Err(error) => refused.push(error),
            }
        }
        Ok((store, refused))
    }

    /// All that is attached, by container ID and interface name.
    pub(crate) fn records(&self) -> &BTreeMap<Key, T> {
        &self.records
    }

    /// Another number than before where something was attached or removed meanwhile.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// One of them.
    pub(crate) fn record(&self, container_id: &str, ifname: &str) -> Option<&T> {
        self.records.get(&(container_id.to_owned(), ifname.to_owned()))
    }

    /// Writes down an attachment, new or changed, and then remembers it.
    ///
    /// # Errors
    /// It cannot be written: then nothing has changed, on disk or in memory.
    pub(crate) fn save(&mut self, container_id: &str, ifname: &str, record: T) -> Result<(), StoreError> {
        let path = self.path(container_id, ifname)?;
        let key = (container_id.to_owned(), ifname.to_owned());
        let written = Written { container_id: key.0.clone(), ifname: key.1.clone(), record };
        save(&path, ATTACHMENT, &self.owner, &written)?;
        self.unremoved.remove(&key);
        self.records.insert(key, written.record);
        self.number += 1;
        Ok(())
    }

    /// Forgets an attachment, and removes its file.
    pub(crate) fn remove(&mut self, container_id: &str, ifname: &str) -> Removed<T> {
        let key = (container_id.to_owned(), ifname.to_owned());
        let record = self.records.remove(&key);
        self.number += u64::from(record.is_some());
        // what has no file name never had a file
        let on_disk = self.path(container_id, ifname).map_or(Ok(()), |path| remove_durably(&path));
        if on_disk.is_err() {
            self.unremoved.insert(key);
        }
        Removed { record, on_disk }
    }

    /// Tries again to remove the files that could not be removed.
    ///
    /// # Errors
    /// The first that still cannot.
    pub(crate) fn retry_removals(&mut self) -> Result<(), StoreError> {
        while let Some(key) = self.unremoved.first().cloned() {
            remove_durably(&self.path(&key.0, &key.1)?)?;
            self.unremoved.remove(&key);
        }
        Ok(())
    }

    /// `None` for what is not an attachment's file.
    fn read(&self, path: &Path) -> Result<Option<(Key, T)>, StoreError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX) {
            return Ok(None);
        }
        let Some(written) = load::<Written<T>>(path, ATTACHMENT, &self.owner)? else {
            return Ok(None);
        };
        if self.path(&written.container_id, &written.ifname)? != path {
            let reason = format!("it is about {} {}", written.container_id, written.ifname);
            return Err(StoreError::damaged(path, Damage::Content { reason }, ATTACHMENT.remedy));
        }
        Ok(Some(((written.container_id, written.ifname), written.record)))
    }

    /// `<container ID>@<interface>`: a container ID has no `@` (CNI specification, section 2), so no two share a file.
    fn path(&self, container_id: &str, ifname: &str) -> Result<PathBuf, StoreError> {
        let wrong = |name: &str, reason| StoreError::Name {
            path: self.dir.clone(),
            name: name.chars().take(80).flat_map(char::escape_debug).collect(),
            reason,
        };
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let begins_well = container_id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if !begins_well || container_id.len() > CONTAINER_ID_LENGTH_MAX || !container_id.bytes().all(good) {
            let reason = "a container ID is 1 to 200 of a-z, A-Z, 0-9, '_', '.', '-', beginning with a letter or digit";
            return Err(wrong(container_id, reason));
        }
        let forbidden = |b: u8| !b.is_ascii_graphic() || matches!(b, b'/' | b':');
        if ifname.is_empty() || ifname.len() > IFNAME_LENGTH_MAX || ifname.bytes().any(forbidden) {
            return Err(wrong(ifname, "an interface name is 1 to 15 printable ASCII characters without '/' and ':'"));
        }
        Ok(self.dir.join(format!("{container_id}@{ifname}")))
    }
}

#[cfg(test)]
mod tests;
