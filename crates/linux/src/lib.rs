//! The kernel's doors: network namespaces, TUN, UDP and waiting; the only room with `unsafe` code.
//!
//! It is a tool shed: it decides nothing and knows nothing of identities, peers or policy. The programs of the roof
//! reach down to it; no core may enter it. Its three main types are [`netns::Netns`], [`tun::Tun`] and [`udp::Udp`].
//!
//! ```no_run
//! use linux::netns::Netns;
//! // What links does the pod see?
//! let pod = Netns::open("/run/netns/pod-a")?;
//! let links = pod.within(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod capability;
pub mod fault;
pub mod memory;
pub mod netns;
pub mod poll;
pub mod tun;
pub mod udp;
