//! One change of what a node holds, and what it does to it.

use std::collections::BTreeMap;

use identity::SpiffeId;

use crate::desired::{Desired, Filter, LocalIdentity, PeerName, RemoteIdentity, Route};

/// One change; each is applied as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The engine has these local identities.
    SetLocals(BTreeMap<SpiffeId, LocalIdentity>),
    /// The engine has these peers.
    SetPeers(BTreeMap<PeerName, RemoteIdentity>),
    /// This route is there, instead of whatever leads elsewhere for the same table and prefix.
    SetRoute(Route),
    /// This route is gone.
    DelRoute(Route),
    /// The packet filter is this, in one transaction.
    SetFilter(Box<Filter>),
}

impl Step {
    /// Applies it to a state.
    pub fn apply(&self, state: &mut Desired) {
        match self {
            Self::SetLocals(locals) => state.locals.clone_from(locals),
            Self::SetPeers(peers) => state.peers.clone_from(peers),
            Self::SetRoute(route) => {
                state.routes.retain(|held| (held.table, held.prefix) != (route.table, route.prefix));
                state.routes.insert(*route);
            }
            Self::DelRoute(route) => {
                state.routes.remove(route);
            }
            Self::SetFilter(filter) => state.filter.clone_from(filter),
        }
    }
}
