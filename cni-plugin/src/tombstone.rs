//! A DEL that found nobody home, left as a file for the daemon.
//!
//! ```text
//! <tombstones>/<container id>@<interface>.json   {"containerID":"…","ifname":"…","netns":"…"}
//! ```
//!
//! Written new, synced and renamed, so that the daemon finds it whole or not at all, and finds it after a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use cni::Attachment;
use serde_json::json;

/// The place of one attachment's tombstone.
pub(crate) struct Tombstone<'a> {
    folder: &'a Path,
    attachment: &'a Attachment,
}

impl<'a> Tombstone<'a> {
    /// Names the place; nothing is touched.
    pub(crate) fn of(folder: &'a Path, attachment: &'a Attachment) -> Self {
        Self { folder, attachment }
    }

    /// The file's path.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.attachment))
    }

    /// Whether a DEL waits here.
    ///
    /// # Errors
    /// The folder cannot be searched. That it is not there yet is no error.
    pub(crate) fn is_there(&self) -> io::Result<bool> {
        self.path().try_exists()
    }

    /// Whether nobody will ever look here: the daemon's state folder, which it makes before it attaches anything, is gone. What
    /// was taken away from a node leaves nothing on it, also where the plugin has to stay for sandboxes that were made with it.
    pub(crate) fn is_for_nobody(&self) -> bool {
        self.folder.parent().is_some_and(|state| matches!(state.try_exists(), Ok(false)))
    }

    /// Leaves a DEL here. The folder is made where it is missing, for its owner alone.
    ///
    /// # Errors
    /// That of the step which failed; then no DEL waits here that did not before.
    pub(crate) fn write(&self, netns: Option<&str>) -> io::Result<()> {
        if !self.folder.is_dir() {
            DirBuilder::new().mode(0o700).create(self.folder)?;
            self.folder.parent().map_or(Ok(()), sync_folder)?;
        }
        let (container_id, ifname) = (self.attachment.container_id(), self.attachment.ifname());
        let text = json!({ "containerID": container_id, "ifname": ifname, "netns": netns }).to_string();
        // the leading dot and the end keep the daemon's eyes off it; the process id keeps two plugins apart
        let temporary = self.folder.join(format!(".{}.weft-tmp", std::process::id()));
        let written = write_new(&temporary, text.as_bytes()).and_then(|()| fs::rename(&temporary, self.path()));
        if let Err(error) = written {
            // the error that counts is the first one; the daemon sweeps what stays
            drop(fs::remove_file(&temporary));
            return Err(error);
        }
        sync_folder(self.folder)
    }

    /// Takes the tombstone away: its DEL is done.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(self.path()) {
            Ok(()) => sync_folder(self.folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // a file of this name is left of a dead process that had our id
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
