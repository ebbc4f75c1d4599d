//! Whether this daemon is ready, as a file that a probe in its container looks for (`meshd ready`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// The file is there while the daemon is ready. Without a path nobody is told.
#[derive(Debug)]
pub(crate) struct ReadyFile {
    path: Option<PathBuf>,
    is_there: bool,
}

impl ReadyFile {
    /// Not ready yet: what a former process of this container left is removed.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn new(path: Option<PathBuf>) -> anyhow::Result<Self> {
        let mut file = Self { path, is_there: true };
        file.set(false)?;
        Ok(file)
    }

    /// Makes or removes the file where that is news.
    ///
    /// # Errors
    /// The folder refuses; the next call tries again.
    pub(crate) fn set(&mut self, is_ready: bool) -> anyhow::Result<()> {
        let Some(path) = self.path.as_ref().filter(|_| is_ready != self.is_there) else { return Ok(()) };
        let cannot = || format!("cannot say by {} whether this daemon is ready", path.display());
        if is_ready {
            std::fs::write(path, "").with_context(cannot)?;
        } else {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(cannot),
                _ => {}
            }
        }
        self.is_there = is_ready;
        Ok(())
    }
}

/// `meshd ready`: succeeds where the file is.
///
/// # Errors
/// It is not.
pub(crate) fn ask(path: &Path) -> anyhow::Result<()> {
    ensure!(path.exists(), "this daemon is not ready: `meshctl status` says what it waits for");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_there_while_the_daemon_is_ready() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        std::fs::write(&path, "of a former process").unwrap();
        let mut file = ReadyFile::new(Some(path.clone())).unwrap();
        assert!(ask(&path).is_err(), "what a former process left counts");
        file.set(true).unwrap();
        file.set(true).unwrap();
        ask(&path).unwrap();
        file.set(false).unwrap();
        assert!(ask(&path).is_err());
        ReadyFile::new(None).unwrap().set(true).unwrap();
        drop(dir);
        let error = file.set(true).unwrap_err();
        assert!(format!("{error:#}").contains("ready"), "{error:#}");
    }
}
