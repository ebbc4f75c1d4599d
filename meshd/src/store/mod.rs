//! Files that outlive the daemon: write new, sync, rename.
