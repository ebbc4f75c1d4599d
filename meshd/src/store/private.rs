//! Directories and files that are for their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::atomic::{TEMPORARY_SUFFIX, sync_dir};
use super::error::{Damage, StoreError};

/// Opens a state directory: makes it (0700, with its parents) where it is missing, takes away what others may read,
/// and refuses one that others may write: they may have put something in.
///
/// # Errors
/// Not a directory, not to be made, or writable for others.
pub(crate) fn open_private_dir(dir: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(StoreError::io("make the directory", dir))?;
    let found = fs::metadata(dir).map_err(StoreError::io("look at", dir))?;
    if !found.is_dir() {
        return Err(StoreError::Kind { path: dir.to_owned(), wanted: "directory" });
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        let suspect = "remove what is in it";
        return Err(StoreError::Exposed { path: dir.to_owned(), mode, wanted: 0o700, suspect });
    }
    if mode & 0o055 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(StoreError::io("run `chmod 700` on", dir))?;
    }
    Ok(())
}

/// Whether files can be made and removed in a directory; none stays.
///
/// # Errors
/// One of both is refused.
pub(crate) fn takes_files(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(format!(".{}-start{TEMPORARY_SUFFIX}", std::process::id()));
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    made.map_err(StoreError::io("write into", dir))?;
    fs::remove_file(&path).map_err(StoreError::io("remove a file from", dir))
}

/// A directory that is this process's alone, until this is dropped or the process ends.
pub(crate) struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // said aloud: a child process between fork and exec holds the file open for a moment longer
        let _gone_with_the_file = self.0.unlock();
    }
}

/// Takes the directory for this process.
///
/// # Errors
/// Another process has it.
pub(crate) fn lock_dir(dir: &Path) -> Result<DirLock, StoreError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(DirLock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path }),
        Err(TryLockError::Error(cause)) => Err(StoreError::Io { doing: "lock", path, cause }),
    }
}

/// Removes what interrupted writes left in a directory that this process holds the lock of. Answers with how many.
///
/// # Errors
/// The directory cannot be read, or a file not removed.
pub(crate) fn sweep(dir: &Path) -> Result<usize, StoreError> {
    let mut swept = 0;
    for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
        let entry = entry.map_err(StoreError::io("list", dir))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX) {
            fs::remove_file(entry.path()).map_err(StoreError::io("remove the leftover", &entry.path()))?;
            swept += 1;
        }
    }
    if swept > 0 {
        sync_dir(dir).map_err(StoreError::io("sync", dir))?;
    }
    Ok(swept)
}

/// Whether a file may be readable for others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privacy {
    /// For its owner alone: a secret.
    Secret,
    /// It may be read, but by its owner alone written.
    Public,
}

/// Reads a file of at most `max` bytes; `None` where there is none.
///
/// # Errors
/// Not a regular file, open to others, larger than `max`, or unreadable.
pub(crate) fn read_bounded(
    path: &Path,
    max: u64,
    privacy: Privacy,
    remedy: &'static str,
) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(StoreError::Io { doing: "read", path: path.to_owned(), cause }),
    };
    let found = file.metadata().map_err(StoreError::io("look at", path))?;
    if !found.is_file() {
        return Err(StoreError::Kind { path: path.to_owned(), wanted: "regular file" });
    }
    let mode = found.permissions().mode() & 0o7777;
    let forbidden = if privacy == Privacy::Secret { 0o077 } else { 0o022 };
    if mode & forbidden != 0 {
        let wanted = if privacy == Privacy::Secret { 0o600 } else { 0o644 };
        return Err(StoreError::Exposed { path: path.to_owned(), mode, wanted, suspect: remedy });
    }
    let huge = |found| Err(StoreError::damaged(path, Damage::Huge { found, max }, remedy));
    if found.len() > max {
        return huge(found.len());
    }
    // room for all at once: growing would leave copies of secrets behind
    let room = usize::try_from(found.len()).unwrap_or(0).saturating_add(1);
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(room));
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    if bytes.len() as u64 > max {
        return huge(bytes.len() as u64);
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
