//! Opens, compares, enters, makes and deletes network namespaces; entering happens on a throwaway thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::{fmt, thread};

use rustix::fs::{FsWord, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// Where `ip netns` keeps the names of namespaces, and we too.
pub const NAMED_DIR: &str = "/run/netns";

/// The calling thread's own namespace. Not `/proc/self/…`: that is the main thread's, which may be elsewhere.
const OWN: &str = "/proc/thread-self/ns/net";

/// `NSFS_MAGIC` of linux/magic.h: the file system of namespace files.
const NSFS_MAGIC: FsWord = 0x6e73_6673;

/// `CLONE_NEWNET` as the answer of `NS_GET_NSTYPE` (ioctl_nsfs(2)).
const NETWORK: libc::c_int = libc::CLONE_NEWNET;

/// A network namespace, kept alive for as long as this value lives.
///
/// Two values are equal when they are the same namespace, however they were found.
pub struct Netns {
    file: OwnedFd,
    key: NetnsKey,
}

/// What tells a network namespace from all others while it lives: device and inode of its nsfs file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsKey {
    /// Device number of the nsfs.
    pub device: u64,
    /// Inode number there; also what `ip netns identify` and `/proc/PID/ns/net` show.
    pub inode: u64,
}

/// What can go wrong with a network namespace.
#[derive(Debug)]
pub enum NetnsError {
    /// The file cannot be opened; it is gone when the source's kind is `NotFound`.
    Open {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is something at the path, but no network namespace.
    NotNetwork {
        /// Where.
        path: PathBuf,
    },
    /// The kernel does not let us enter; without CAP_SYS_ADMIN it never does.
    Enter {
        /// Why not.
        source: io::Error,
    },
    /// No new namespace could be made.
    Create {
        /// The name or path that it should have got; empty for one without a name.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The name could not be taken away.
    Delete {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name is a single path component: not empty, no `/`, not `.` or `..`, at most 255 bytes.
    Name {
        /// What was given instead.
        name: String,
    },
}

impl NetnsError {
    /// The kernel's answer, if it was asked.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Open { source, .. }
            | Self::Enter { source }
            | Self::Create { source, .. }
            | Self::Delete { source, .. } => Some(source.kind()),
            Self::NotNetwork { .. } | Self::Name { .. } => None,
        }
    }
}

impl fmt::Display for NetnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = match self.io_kind() {
            Some(io::ErrorKind::PermissionDenied) => " (it takes root, or CAP_SYS_ADMIN)",
            _ => "",
        };
        match self {
            Self::Open { path, source } => {
                write!(f, "cannot open network namespace {}: {source}{remedy}", path.display())
            }
            Self::NotNetwork { path } => write!(f, "{} is not a network namespace", path.display()),
            Self::Enter { source } => write!(f, "cannot enter the network namespace: {source}{remedy}"),
            Self::Create { path, source } => {
                write!(f, "cannot make network namespace {}: {source}{remedy}", path.display())
            }
            Self::Delete { path, source } => {
                write!(f, "cannot delete network namespace {}: {source}{remedy}", path.display())
            }
            Self::Name { name } => write!(f, "{name:?} is no name for a network namespace: one path component, please"),
        }
    }
}

impl std::error::Error for NetnsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { source, .. }
            | Self::Enter { source }
            | Self::Create { source, .. }
            | Self::Delete { source, .. } => Some(source),
            Self::NotNetwork { .. } | Self::Name { .. } => None,
        }
    }
}

impl From<NetnsError> for io::Error {
    fn from(error: NetnsError) -> Self {
        Self::new(error.io_kind().unwrap_or(io::ErrorKind::InvalidInput), error)
    }
}

impl Netns {
    /// Opens the namespace at `path`: a `/proc/PID/ns/net`, a `/run/netns/NAME`, the sandbox of a CNI call.
    ///
    /// # Errors
    /// [`NetnsError::Open`] when there is nothing at the path or it may not be read, [`NetnsError::NotNetwork`] when
    /// it is another kind of file or namespace.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref();
        let failed = |errno: Errno| NetnsError::Open { path: path.to_owned(), source: errno.into() };
        // O_NONBLOCK: a FIFO at the path must not hold us up
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
            .map_err(failed)?;
        let fs = rustix::fs::fstatfs(&file).map_err(failed)?;
        if fs.f_type != NSFS_MAGIC || namespace_type(file.as_fd()).map_err(failed)? != NETWORK {
            return Err(NetnsError::NotNetwork { path: path.to_owned() });
        }
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        Ok(Self { file, key: NetnsKey { device: stat.st_dev, inode: stat.st_ino } })
    }

    /// Opens the namespace the calling thread is in.
    ///
    /// # Errors
    /// [`NetnsError::Open`] when `/proc` is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(OWN)
    }

    /// Makes a new namespace without a name. It ends with this value, with the last process in it and with the last
    /// link's owner, whichever is last.
    ///
    /// # Errors
    /// [`NetnsError::Create`], as a rule for want of CAP_SYS_ADMIN.
    pub fn create() -> Result<Self, NetnsError> {
        let unnamed = |source| NetnsError::Create { path: PathBuf::new(), source };
        on_thread(|| {
            leave_for_new().map_err(unnamed)?;
            Self::current()
        })
        .map_err(unnamed)?
    }

    /// Makes a new namespace named `name` under [`NAMED_DIR`], as `ip netns add` does and visible to it. It lives until
    /// [`Netns::delete_named`]. Its loopback is down, like that of every new namespace.
    ///
    /// # Errors
    /// [`NetnsError::Name`] for a name that is no single path component; [`NetnsError::Create`] when the name is taken
    /// (kind `AlreadyExists`) or privilege is lacking; nothing stays behind then.
    pub fn create_named(name: &str) -> Result<Self, NetnsError> {
        let path = named_path(name)?;
        let failed = |source| NetnsError::Create { path: path.clone(), source };
        share_named_dir().map_err(failed)?;
        File::options().write(true).create_new(true).open(&path).map_err(failed)?;
        let made = on_thread(|| {
            leave_for_new().map_err(failed)?;
            rustix::mount::mount_bind(OWN, &path).map_err(|errno| failed(errno.into()))?;
            Self::current()
        })
        .map_err(failed)
        .flatten();
        if made.is_err() {
            // best effort: what is reported is why it failed, not why it could not be tidied up
            let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH);
            let _ = std::fs::remove_file(&path);
        }
        made
    }

    /// Takes the name away; the namespace ends when nobody is in it any more. A name that is not there is fine.
    ///
    /// # Errors
    /// [`NetnsError::Name`] for a name that is no single path component, [`NetnsError::Delete`] when unmounting or
    /// removing fails.
    pub fn delete_named(name: &str) -> Result<(), NetnsError> {
        let path = named_path(name)?;
        let failed = |source| NetnsError::Delete { path: path.clone(), source };
        loop {
            match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
                // mounts stack: on to the next until it is a plain file
                Ok(()) => {}
                // not a mount point: an `add` that was cut short
                Err(Errno::INVAL) => break,
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// Opens the namespace named `name` under [`NAMED_DIR`].
    ///
    /// # Errors
    /// As [`Netns::open`], and [`NetnsError::Name`].
    pub fn open_named(name: &str) -> Result<Self, NetnsError> {
        Self::open(named_path(name)?)
    }

    /// What tells this namespace from others.
    #[must_use]
    pub fn key(&self) -> NetnsKey {
        self.key
    }

    /// Whether both are one and the same namespace.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.key == other.key
    }

    /// Whether the calling thread is in this namespace.
    ///
    /// # Errors
    /// As [`Netns::current`].
    pub fn is_current(&self) -> Result<bool, NetnsError> {
        Ok(self.is_same(&Self::current()?))
    }

    /// Runs `work` inside the namespace, on a thread of its own that ends with it, and waits for the answer. Sockets
    /// that it opens stay in this namespace wherever they are used later. A panic of `work` goes on in the caller.
    ///
    /// # Errors
    /// [`NetnsError::Enter`]; `work` was not run then.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        on_thread(|| {
            rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(io::Error::from)?;
            Ok(work())
        })
        .flatten()
        .map_err(|source| NetnsError::Enter { source })
    }

    /// Starts `command` inside the namespace. Only the network changes: files, mounts and `/sys` stay the caller's.
    /// Do not set `PR_SET_PDEATHSIG` in it: its parent is the throwaway thread.
    ///
    /// # Errors
    /// As [`Netns::within`], and whatever [`Command::spawn`] says.
    pub fn spawn_in(&self, mut command: Command) -> io::Result<Child> {
        self.within(move || command.spawn())?
    }

    /// Another handle on the same namespace.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, key: self.key })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other)
    }
}

impl Eq for Netns {}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netns").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Runs `work` on a thread that ends with it, so that whatever it does to its namespaces ends too.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread into a new network namespace. Only for threads of [`on_thread`].
fn leave_for_new() -> io::Result<()> {
    // SAFETY: NEWNET does not touch the table of file descriptors, which is what makes `unshare` unsafe.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

/// Which `CLONE_NEW…` the namespace file stands for.
fn namespace_type(file: BorrowedFd<'_>) -> Result<libc::c_int, Errno> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: NS_GET_NSTYPE takes no argument and only reads what the open descriptor refers to.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if answer < 0 { Err(last_errno()) } else { Ok(answer) }
}

/// The error of the libc call just made.
fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Makes [`NAMED_DIR`], and a shared mount of it, so that names reach other mount namespaces: what `ip netns` does.
fn share_named_dir() -> io::Result<()> {
    std::fs::create_dir_all(NAMED_DIR)?;
    // one at a time, or the mounts pile up; released with the descriptor
    let dir = File::open(NAMED_DIR)?;
    rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive)?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match rustix::mount::mount_change(NAMED_DIR, shared) {
        // not a mount point yet: make it one
        Err(Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(NAMED_DIR, NAMED_DIR)?;
            rustix::mount::mount_change(NAMED_DIR, shared)?;
            Ok(())
        }
        other => other.map_err(io::Error::from),
    }
}

/// Where a name is kept.
fn named_path(name: &str) -> Result<PathBuf, NetnsError> {
    if name.is_empty() || name.len() > 255 || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(NetnsError::Name { name: name.to_owned() });
    }
    Ok(Path::new(NAMED_DIR).join(name))
}

#[cfg(test)]
mod tests;
