//! Ctrl-C and SIGTERM: what takes long stops at the next good moment and clears up after itself.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on signals to end are remembered instead of ending the program at once.
///
/// # Errors
/// The kernel does not take the handler.
pub(crate) fn defer() -> anyhow::Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot listen for signals")
}

/// To be called between two steps.
///
/// # Errors
/// We were told to end.
pub(crate) fn check() -> anyhow::Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
