//! Who talks with whom.

use crate::local::LocalAt;
use crate::peer::PeerAt;

/// A local identity and a peer that talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pair {
    pub(crate) local: LocalAt,
    pub(crate) peer: PeerAt,
}
