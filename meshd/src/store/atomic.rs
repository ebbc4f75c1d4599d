//! Replaces a file as a whole: at any moment, and after any crash, either the old or the new one is there.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::StoreError;

/// How every temporary file's name ends; with the leading dot, watchers of directories leave it alone.
pub(super) const TEMPORARY_SUFFIX: &str = ".weft-tmp";

/// Writes a file as a whole: a new one in the same directory, synced, renamed over the old one, the directory synced.
///
/// `mode` is the new file's, whatever the umask says.
///
/// # Errors
/// Each step's; then the old file is untouched and no temporary file is left. Should the last sync of the directory
/// fail, the new file is in place but may not outlive a power cut, which is an error too.
pub(crate) fn atomic_write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    let dir = parent(path);
    let temporary = temporary_name(dir);
    let outcome = write_new(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(cause) = outcome {
        // best effort: the error that counts is the first one, and sweeping takes what stays
        let _swept_later = fs::remove_file(&temporary);
        return Err(StoreError::Io { doing: "write", path: path.to_owned(), cause });
    }
    sync_dir(dir).map_err(StoreError::io("sync the directory of", path))
}

/// Removes a file for good; one that is not there is removed already.
///
/// # Errors
/// The removal's, or the sync's of the directory.
pub(crate) fn remove_durably(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)).map_err(StoreError::io("sync the directory of", path)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(StoreError::Io { doing: "remove", path: path.to_owned(), cause }),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Unique among the processes of this machine and the threads of this one.
fn temporary_name(dir: &Path) -> PathBuf {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    dir.join(format!(".{}-{serial}{TEMPORARY_SUFFIX}", std::process::id()))
}

#[cfg(test)]
mod tests;
