//! The data thread: TUN and UDP on one side, the engine on the other.
//!
//! [`spawn`] opens both doors and starts the thread `mesh-data`, which is never waited for and never waits (decision
//! 0005). Control holds the [`Handle`]: it sends whole tables, reads counters, asks for snapshots, and is told of events.
#![cfg_attr(not(test), expect(dead_code, unused_imports, reason = "app.rs wires it"))]

mod command;
mod counters;
mod inbound;
mod inner;
mod outbound;
mod outbox;
mod outer;
mod pieces;
mod repeats;
mod source;
mod train;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, anyhow};
use linux::poll::{Poll, Waker};
use linux::tun::TunOffload;
use linux::udp::Udp;
use ring::rand::SecureRandom as _;
use tokio::sync::{mpsc, oneshot};

pub(crate) use command::{Command, Event, SessionSnapshot, Snapshot};
pub(crate) use counters::Counters;
pub(crate) use outbound::ClassPolicy;

use command::{COMMANDS_MAX, EVENTS_MAX};
use inner::Inner;
use outbound::Outbound;
use outer::Outer;
use worker::Worker;

/// What the data path is made with.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Name of the TUN device; made if it is not there.
    pub(crate) tun: String,
    /// The UDP port of all identities; 0 lets the kernel choose.
    pub(crate) port: u16,
    /// `SO_MARK` of outer packets, so that no rule of ours routes them into the TUN again; 0 for none.
    pub(crate) mark: u32,
    /// The longest inner packet in bytes that the underlay carries, which padding must not exceed.
    pub(crate) mtu: usize,
    /// Whether to use what the kernel has of segmentation offload.
    pub(crate) offload: bool,
    /// Traffic class of the outer packets.
    pub(crate) class: ClassPolicy,
}

/// The data thread as control sees it. Dropping it stops the thread and waits for it; the device stays.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: SyncSender<Command>,
    waker: Waker,
    counters: Arc<Counters>,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

/// Opens the TUN device and the UDP port in the calling thread's network namespace and starts the data thread there,
/// without identities and peers.
///
/// Events come by the receiver; they are dropped and counted while it is full.
pub(crate) fn spawn(config: &Config) -> anyhow::Result<(Handle, mpsc::Receiver<Event>)> {
    let counters = Arc::new(Counters::default());
    let wanted = if config.offload { TunOffload::Udp } else { TunOffload::None };
    let inner = Inner::open(&config.tun, wanted, Arc::clone(&counters)).context("cannot open the mesh's TUN device")?;
    let udp = Udp::bind(config.port, config.mark).context("cannot open the mesh's UDP port")?;
    let port = udp.port();
    let mut seed = [0; 32];
    ring::rand::SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_nothing| anyhow!("the kernel has no random numbers for us"))?;
    let mut engine = wg::Engine::new(seed, SystemTime::now(), Instant::now());
    engine.set_mtu(config.mtu);
    let poll = Poll::new().context("cannot make what the data thread waits with")?;
    let waker = poll.waker();
    let (commands, receiver) = sync_channel(COMMANDS_MAX);
    let (events, told) = mpsc::channel(EVENTS_MAX);
    let outer = Outer::new(udp, config.offload, Arc::clone(&counters), Instant::now());
    let outbound = Outbound::new(config.mtu, config.class, Arc::clone(&counters));
    let worker = Worker::new(engine, (inner, outer), outbound, receiver, poll, events);
    let thread = thread::Builder::new()
        .name("mesh-data".to_owned())
        .spawn(move || worker.run())
        .context("cannot start the data thread")?;
    Ok((Handle { commands, waker, counters, port, thread: Some(thread) }, told))
}

impl Handle {
    /// Sends a command. Waits, for microseconds as a rule, while [`COMMANDS_MAX`] of them wait.
    ///
    /// Fails only when the data thread has ended, which is the end of the daemon.
    pub(crate) fn send(&self, command: Command) -> anyhow::Result<()> {
        self.commands.send(command).map_err(|_nothing| anyhow!("the data thread has ended"))?;
        self.waker.wake();
        Ok(())
    }

    /// What the engine looks like now.
    pub(crate) async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Snapshot(reply))?;
        answer.await.context("the data thread has ended")
    }

    /// Opens the TUN device again after [`Event::TunGone`]; it is made if it is not there, and then it is down and has
    /// no address, MTU or route.
    pub(crate) async fn open_tun(&self) -> anyhow::Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::OpenTun(reply))?;
        answer.await.context("the data thread has ended")?.context("cannot open the mesh's TUN device again")
    }

    /// What was carried and dropped so far.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The UDP port, also when the kernel chose it.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends the thread after what it is at, and waits for it.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // if it has ended already there is nobody to tell
        let _told = self.send(Command::Stop);
        if thread.join().is_err() {
            tracing::error!("The data thread had panicked");
        }
    }
}
