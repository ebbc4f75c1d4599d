//! Files that outlive the daemon: write new, sync, rename; read back only what is whole, ours and of our version.
//!
//! Layout of a node's state directory (mode 0700):
//!
//! ```text
//! lock                     held by the running daemon
//! node.secret              node UID and the 32 bytes that every WireGuard key is derived from
//! node.credential          Ed25519 key (PKCS#8) that signs what this node says
//! trust.pin                SHA-256 of the root certificate that the join token named
//! floor                    highest epoch accepted of each (node, identity)
//! recent-pairs             who talked to whom lately
//! guarded-ranges           what is closed after a boot until the view is there (decision 0022)
//! view                     the last known view of an API server (cluster/kubernetes/cache.rs)
//! sysctls                  settings of the node's bridges as they were before Weft (kernel/sysctl.rs, plain JSON)
//! cni-original             the network list as it was (install.rs, plain JSON)
//! attachments/<container>@<interface>   one attached workload interface
//! tombstones/<container>-<interface>.json   a DEL that found nobody home (written by mesh-cni, plain JSON)
//! ```

#![cfg_attr(
    not(test),
    expect(dead_code, reason = "the node and the controller take these up as they are wired in app.rs")
)]
#![expect(unused_imports, reason = "as above")]

mod atomic;
mod attachments;
mod checked;
mod error;
mod floor;
mod guard;
mod node_files;
mod private;
mod recent_pairs;
#[cfg(test)]
mod tests;
mod tombstones;

pub(crate) use atomic::{atomic_write, remove_durably};
pub(crate) use attachments::{AttachmentStore, Key as AttachmentKey, Removed};
pub(crate) use checked::{Kind, load, read_checked, save, write_checked};
pub(crate) use error::{Damage, StoreError};
pub(crate) use floor::FloorStore;
pub(crate) use guard::GuardStore;
pub(crate) use node_files::NodeFiles;
pub(crate) use private::{DirLock, Privacy, lock_dir, open_private_dir, read_bounded, sweep, takes_files};
pub(crate) use recent_pairs::{RecentPair, RecentPairStore};
pub(crate) use tombstones::{Tombstone, Tombstones};
