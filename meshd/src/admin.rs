//! The admin socket: what meshctl asks a daemon.
