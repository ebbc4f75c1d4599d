//! What can be wrong with a file, said with its path and what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a file could not be used. Every message names the file and the remedy.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// The operating system refused.
    #[error("cannot {doing} {path}: {cause}{remedy}", path = .path.display(), remedy = remedy(.cause))]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The refusal; part of the message.
        cause: io::Error,
    },
    /// Others than the owner can get at it.
    #[error("{path} has mode {mode:04o}, others than its owner can get at it: run `chmod {wanted:o} {path}`, and if \
             somebody may have read or changed it, {suspect}", path = .path.display())]
    Exposed {
        /// Which file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        wanted: u32,
        /// What to do where somebody was at it.
        suspect: &'static str,
    },
    /// Its content is not what was written.
    #[error("{path} is damaged ({damage}): {remedy}", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// In what way.
        damage: Damage,
        /// What to do.
        remedy: &'static str,
    },
    /// Written by another version of Weft.
    #[error("{path} is of version {found}, this program reads version {supported}: run the version of Weft that wrote it, or {remedy}", path = .path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// The version in it.
        found: String,
        /// Ours.
        supported: u32,
        /// What to do.
        remedy: &'static str,
    },
    /// Made for somebody else.
    #[error("{path} belongs to `{found}`, not to `{expected}`: {remedy}", path = .path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who we are.
        expected: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process works in the directory.
    #[error("{path} is locked: another meshd runs on this state directory; stop it, or give this one a directory of its own", path = .path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// There is something else where a file or directory should be.
    #[error("{path} is not a {wanted}: move it away", path = .path.display())]
    Kind {
        /// Where.
        path: PathBuf,
        /// What should be there.
        wanted: &'static str,
    },
    /// A name that cannot be part of a file name.
    #[error("`{name}` cannot name a file in {path}: {reason}", path = .path.display())]
    Name {
        /// The directory.
        path: PathBuf,
        /// The name, shortened.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A value that cannot be written as JSON.
    #[error("cannot write {path}: {cause}", path = .path.display())]
    Encode {
        /// Which file.
        path: PathBuf,
        /// Why; part of the message.
        cause: serde_json::Error,
    },
    /// The operating system or a key algorithm refused to make a secret.
    #[error("cannot make {path}: {cause}", path = .path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why; part of the message.
        cause: identity::KeyError,
    },
}

/// In what way a file is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Damage {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Does not begin with a header of ours.
    #[error("it does not begin with a header of Weft")]
    Header,
    /// Of another kind than its name says.
    #[error("it holds `{found}`")]
    Kind {
        /// What it holds.
        found: String,
    },
    /// Shorter or longer than its header says.
    #[error("it has {found} bytes after its header, which says {stated}")]
    Length {
        /// As counted.
        found: u64,
        /// As its header says.
        stated: u64,
    },
    /// Larger than any that is ever written.
    #[error("it has {found} bytes, more than the {max} that are ever written")]
    Huge {
        /// As found.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A byte is another than was written.
    #[error("its checksum is not that of its content")]
    Checksum,
    /// Whole, but not to be understood.
    #[error("its content cannot be read: {reason}")]
    Content {
        /// Why not.
        reason: String,
    },
}

impl StoreError {
    /// Something that the operating system refused.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { doing, path, cause }
    }

    /// A damaged file.
    pub(crate) fn damaged(path: &Path, damage: Damage, remedy: &'static str) -> Self {
        Self::Damaged { path: path.to_owned(), damage, remedy }
    }
}

fn remedy(cause: &io::Error) -> &'static str {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other kinds have no remedy that would always be right")]
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space on that file system",
        io::ErrorKind::ReadOnlyFilesystem => "; mount that file system read-write, or choose another directory",
        io::ErrorKind::PermissionDenied => "; run as the user that owns it, or give that user access",
        io::ErrorKind::NotFound => "; make the directory, or choose another one",
        _ => "",
    }
}
