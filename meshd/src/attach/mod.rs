//! The CNI server: answers the plugin on a unix socket.
