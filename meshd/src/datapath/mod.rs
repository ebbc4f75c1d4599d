//! The data threads: TUN and UDP on one side, the engine on the other.
//!
//! [`spawn`] opens both doors and starts the threads `mesh-data`, which are never waited for and never wait (decision
//! 0005). Each has a queue of the device, sockets and an engine of its own, and owns some of the peers. Control holds the [`Handle`]: it sends whole tables, reads counters, asks for snapshots, and is told of events.
#![cfg_attr(not(test), expect(dead_code, unused_imports, reason = "app.rs wires it"))]

mod command;
mod counters;
mod exchange;
mod inbound;
mod inner;
mod outbound;
mod outbox;
mod outer;
mod pieces;
mod probing;
mod repeats;
mod source;
mod train;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, anyhow};
use linux::poll::{Poll, Waker};
use linux::tun::TunOffload;
use linux::udp::{Steering, Udp};
use ring::rand::SecureRandom as _;
use tokio::sync::{mpsc, oneshot};
use wg::SHARDS_MAX;

pub(crate) use command::{Event, Order, SessionSnapshot, Snapshot};
pub(crate) use counters::Totals;
pub(crate) use outbound::ClassPolicy;

use command::{COMMANDS_MAX, Command, EVENTS_MAX};
use counters::Counters;
use exchange::Exchange;
use inner::Inner;
use outbound::Outbound;
use outer::Outer;
use worker::{SOURCES, Worker};

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
    /// Whether peers answer probes of their paths: other nodes do, a stock peer does not.
    pub(crate) probes: bool,
    /// How many data threads: a power of two up to [`SHARDS_MAX`].
    pub(crate) threads: usize,
}

/// The data threads as control sees them. Dropping it stops them and waits for them; the device stays.
#[derive(Debug)]
pub(crate) struct Handle {
    lanes: Vec<Lane>,
    counters: Totals,
    port: u16,
}

/// One data thread.
#[derive(Debug)]
struct Lane {
    commands: SyncSender<Command>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// Opens the TUN device and the UDP port in the calling thread's network namespace and starts the data threads there,
/// without identities and peers.
///
/// Events come by the receiver; they are dropped and counted while it is full.
pub(crate) fn spawn(config: &Config) -> anyhow::Result<(Handle, mpsc::Receiver<Event>)> {
    let (events, told) = mpsc::channel(EVENTS_MAX);
    let steering = wg::RECEIVERS.map(|(kind, place)| Steering { kind, place });
    let sockets = Udp::bind_group(config.port, config.mark, config.threads, &steering)
        .context("cannot open the mesh's UDP port")?;
    let port = sockets.first().map(Udp::port).context("there has to be a data thread")?;
    let polls: Vec<Poll<SOURCES>> = sockets
        .iter()
        .map(|_| Poll::new())
        .collect::<Result<_, _>>()
        .context("cannot make what the data threads wait with")?;
    let wakers: Vec<Waker> = polls.iter().map(Poll::waker).collect();
    let counters: Vec<Arc<Counters>> = sockets.iter().map(|_| Arc::default()).collect();
    let exchanges = Exchange::group(&wakers, &counters)
        .with_context(|| format!("{} data threads: it has to be a power of two up to {SHARDS_MAX}", config.threads))?;
    // all doors are open before the first thread starts
    let mut workers = Vec::new();
    for (((udp, poll), counters), exchange) in sockets.into_iter().zip(polls).zip(&counters).zip(exchanges) {
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        let waker = poll.waker();
        let worker = worker(config, udp, (poll, exchange), (receiver, events.clone()), counters)?;
        workers.push((worker, commands, waker));
    }
    let mut handle = Handle { lanes: Vec::new(), counters: Totals::new(counters), port };
    for (at, (worker, commands, waker)) in workers.into_iter().enumerate() {
        let name = if at == 0 { "mesh-data".to_owned() } else { format!("mesh-data-{at}") };
        let thread =
            thread::Builder::new().name(name).spawn(move || worker.run()).context("cannot start a data thread")?;
        handle.lanes.push(Lane { commands, waker, thread: Some(thread) });
    }
    Ok((handle, told))
}

/// One thread's worker, with a queue of the TUN device.
fn worker(
    config: &Config,
    udp: Udp,
    (poll, exchange): (Poll<SOURCES>, Exchange),
    (commands, events): (Receiver<Command>, mpsc::Sender<Event>),
    counters: &Arc<Counters>,
) -> anyhow::Result<Worker> {
    let wanted = if config.offload { TunOffload::Udp } else { TunOffload::None };
    let inner = Inner::open(&config.tun, wanted, Arc::clone(counters)).context("cannot open the mesh's TUN device")?;
    let mut seed = [0; 32];
    ring::rand::SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_nothing| anyhow!("the kernel has no random numbers for us"))?;
    let mut engine = wg::Engine::new(seed, SystemTime::now(), Instant::now()).with_shard(exchange.shard());
    engine.set_mtu(config.mtu);
    let outer = Outer::new(udp, config.offload, Arc::clone(counters), Instant::now());
    let outbound = Outbound::new(config.mtu, config.class, Arc::clone(counters)).with_probes(config.probes);
    Ok(Worker::new(engine, (inner, outer), outbound, commands, (poll, exchange), events))
}

impl Lane {
    fn send(&self, command: Command) -> anyhow::Result<()> {
        self.commands.send(command).map_err(|_nothing| anyhow!("a data thread has ended"))?;
        self.waker.wake();
        Ok(())
    }
}

impl Handle {
    /// Sends every data thread a table or a setting. Waits, for microseconds as a rule, while [`COMMANDS_MAX`] of them wait.
    ///
    /// Fails only when a data thread has ended, which is the end of the daemon.
    pub(crate) fn send(&self, order: Order) -> anyhow::Result<()> {
        let Some((last, others)) = self.lanes.split_last() else { return Ok(()) };
        for lane in others {
            lane.send(Command::Order(order.clone()))?;
        }
        last.send(Command::Order(order))
    }

    /// What the engines look like now.
    pub(crate) async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let mut whole: Option<Snapshot> = None;
        for lane in &self.lanes {
            let (reply, answer) = oneshot::channel();
            lane.send(Command::Snapshot(reply))?;
            let part = answer.await.context("a data thread has ended")?;
            whole = Some(match whole {
                Some(whole) => whole.with(part),
                None => part,
            });
        }
        whole.context("there is no data thread")
    }

    /// Opens the TUN device again after [`Event::TunGone`]; it is made if it is not there, and then it is down and has
    /// no address, MTU or route.
    pub(crate) async fn open_tun(&self) -> anyhow::Result<()> {
        for lane in &self.lanes {
            let (reply, answer) = oneshot::channel();
            lane.send(Command::OpenTun(reply))?;
            answer.await.context("a data thread has ended")?.context("cannot open the mesh's TUN device again")?;
        }
        Ok(())
    }

    /// What was carried and dropped so far.
    pub(crate) fn counters(&self) -> &Totals {
        &self.counters
    }

    /// How many data threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.lanes.len()
    }

    /// The UDP port, also when the kernel chose it.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends the threads after what they are at, and waits for them.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        for lane in &self.lanes {
            // if it has ended already there is nobody to tell
            let _told = lane.send(Command::Stop);
        }
        for thread in self.lanes.iter_mut().filter_map(|lane| lane.thread.take()) {
            if thread.join().is_err() {
                tracing::error!("A data thread had panicked");
            }
        }
    }
}
