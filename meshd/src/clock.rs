//! The wall clock; what decides is given its reading.

use std::time::{SystemTime, UNIX_EPOCH};

use identity::UnixTime;

/// Wall-clock time, which certificates and epochs are about.
pub(crate) fn wall() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}
