//! One WireGuard session between two static keys: handshakes, keys and timers. The seam behind which the protocol is.
//!
//! It knows no identities, no tables and no queues; it is given `now`, random numbers and buffers, and says what it
//! wants to be woken for. Everything that it does is in the WireGuard paper (§5, §6); constants cite it.
//!
//! ```text
//!              initiate                 accept_response
//!   (nothing) ─────────▶ initiation sent ──────────────▶ key proven ──── 180 s ───▶ key gone
//!       │                    │ 5 s + jitter: again            ▲
//!       │ respond            │ 90 s: Due::GaveUp              │ first data message opens
//!       └───────────────▶ key unproven ───────────────────────┘
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use x25519_dalek::{PublicKey, StaticSecret};

use crate::cipher::Suite;
use crate::cookie::{Jar, MacKeys};
use crate::drop::DropReason;
use crate::gate::Gate;
use crate::hash::Secret;
use crate::message::{DATA_OVERHEAD, INITIATION, RESPONSE, u32_at};
use crate::noise::{Acquaintance, Initiator, Proven};
use crate::pair::Pair;
use crate::random::Random;
use crate::session_key::{KeyFacts, Progress, Renewal, SessionKeys};
use crate::stamp::Stamp;
use crate::transport::REJECT_AFTER_TIME;

/// A session that carried no data for this long is dropped. Every key of it is then too old, so that nothing is lost but
/// memory. (The paper erases keys after `REJECT_AFTER_TIME` x 3.)
pub const IDLE_TIMEOUT: Duration = REJECT_AFTER_TIME;
/// An unanswered initiation is repeated after this time plus jitter (WireGuard paper §6.1, `REKEY_TIMEOUT`).
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long without an answer the session gives up (§6.1, `REKEY_ATTEMPT_TIME`).
const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Whoever got data and had none to send says so after this time (§6.1, `KEEPALIVE_TIMEOUT`).
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Whoever sent data and heard nothing begins a handshake (§6.3: `KEEPALIVE_TIMEOUT` and `REKEY_TIMEOUT`).
const SILENCE: Duration = Duration::from_secs(15);
/// Jitter is uniform below this (§6.1: up to 333 ms).
const JITTER_MILLISECONDS: u64 = 333;
/// Renewals are spread over so much time after 120 s.
const RENEWAL_JITTER_MILLISECONDS: u64 = 900;
/// When the shell has no room for what a session wants to send, it tries again after this time.
const NO_ROOM: Duration = Duration::from_millis(100);

/// The epochs of the two static keys of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epochs {
    pub(crate) local: u64,
    pub(crate) peer: u64,
}

impl Epochs {
    /// A total order in which both sides of a session agree which of two sessions is newer.
    pub(crate) fn rank(self) -> (u64, u64) {
        (self.local.saturating_add(self.peer), self.local.max(self.peer))
    }
}

/// What a session has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) rx_packets: u64,
}

/// What a session wants when it is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// A message without a packet is to be sealed.
    Keepalive,
    /// A handshake is to begin, or to begin again.
    Initiation,
    /// The peer did not answer for so long that the session is over.
    GaveUp,
    /// Nobody used it for so long that it is over.
    Idle,
}

/// An initiation of ours that may be answered. No `Debug`.
struct Pending {
    index: u32,
    noise: Initiator,
    sent: Instant,
}

/// One session. About 600 bytes, and 0.6 KB for each key that sends, as much for each that receives and 1 KiB more once it
/// has received thousands of messages, while they live.
pub(crate) struct Session {
    pair: Pair,
    epochs: Epochs,
    local_key: PublicKey,
    peer_key: PublicKey,
    shared: Secret,
    jar: Jar,
    keys: SessionKeys,
    pending: Option<Box<Pending>>,
    freed: Vec<u32>,
    /// When to repeat the initiation that is not answered, and since when none was.
    retry: Option<Instant>,
    unanswered_since: Option<Instant>,
    /// Initiations in a row without an answer.
    attempts: u32,
    initiated: Option<Instant>,
    /// Data came, and nothing went back: when to say so; and whether more data came meanwhile.
    keepalive: Option<Instant>,
    another_keepalive: bool,
    /// Data went out, and nothing came back: when to begin a handshake.
    silence: Option<Instant>,
    jitter: Duration,
    used: Instant,
    /// When an authentic message came last, old initiations not counted.
    heard: Option<Instant>,
    established: Option<Instant>,
    initiator: bool,
    pub(crate) traffic: Traffic,
    /// A timer was set since this was last asked.
    armed: bool,
    /// The last inner source and destination that were found to belong to the two keys, and in which tables.
    pub(crate) checked: Option<(IpAddr, IpAddr, u64)>,
    /// Where the last message that could move the peer came from, and in which table of endpoints it moved nothing.
    pub(crate) located: Option<(SocketAddr, u64)>,
    /// Where it stands in the table of deadlines.
    pub(crate) scheduled: Option<Instant>,
}

impl Session {
    /// A session without keys. `None` where the peer's key is of low order.
    pub(crate) fn new(pair: Pair, epochs: Epochs, gate: &Gate, peer_key: PublicKey, now: Instant) -> Option<Self> {
        Some(Self {
            pair,
            epochs,
            local_key: *gate.public(),
            peer_key,
            shared: gate.shared_with(&peer_key)?,
            jar: Jar::default(),
            keys: SessionKeys::default(),
            pending: None,
            freed: Vec::new(),
            retry: None,
            unanswered_since: None,
            attempts: 0,
            initiated: None,
            keepalive: None,
            another_keepalive: false,
            silence: None,
            jitter: Duration::ZERO,
            used: now,
            heard: None,
            established: None,
            initiator: false,
            traffic: Traffic::default(),
            armed: false,
            checked: None,
            located: None,
            scheduled: None,
        })
    }

    pub(crate) const fn pair(&self) -> Pair {
        self.pair
    }

    pub(crate) const fn epochs(&self) -> Epochs {
        self.epochs
    }

    /// The secret that the two static keys share.
    pub(crate) const fn shared(&self) -> &Secret {
        &self.shared
    }

    /// Whether this session is between these two static keys.
    pub(crate) fn is_between(&self, local: &PublicKey, peer: &PublicKey) -> bool {
        self.local_key == *local && self.peer_key == *peer
    }

    /// When both sides last had proven a new key.
    pub(crate) const fn established_at(&self) -> Option<Instant> {
        self.established
    }

    pub(crate) const fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// Initiations in a row that were not answered.
    pub(crate) const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What the key that we send with seals with.
    pub(crate) fn suite(&self) -> Option<Suite> {
        self.keys.suite()
    }

    /// Whether there is a key to send with.
    pub(crate) fn is_established(&self, now: Instant) -> bool {
        self.keys.can_send(now)
    }

    /// The receiver indices that lead to this session.
    pub(crate) fn indices(&self) -> Vec<u32> {
        self.keys.indices().chain(self.pending.iter().map(|pending| pending.index)).collect()
    }

    /// Receiver indices that do not lead to this session any more.
    pub(crate) fn freed(&mut self) -> Vec<u32> {
        let mut freed = self.keys.freed();
        freed.append(&mut self.freed);
        freed
    }

    /// When this session wants to be looked at next.
    pub(crate) fn deadline(&self) -> Instant {
        let idle = if self.retry.is_none() { Some(self.used + IDLE_TIMEOUT) } else { None };
        [self.retry, idle, self.keepalive, self.silence, self.keys.expiry()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.used + IDLE_TIMEOUT)
    }

    /// Whether it may want to be looked at earlier than when this was last asked.
    pub(crate) const fn take_armed(&mut self) -> bool {
        std::mem::replace(&mut self.armed, false)
    }

    /// What is due; to be asked again until nothing is.
    pub(crate) fn due(&mut self, now: Instant) -> Due {
        self.keys.prune(now);
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if is_over(self.retry) {
            let began = self.unanswered_since.unwrap_or(now);
            if now.saturating_duration_since(began) >= REKEY_ATTEMPT_TIME {
                return Due::GaveUp;
            }
            self.retry = None;
            self.initiated = None;
            return Due::Initiation;
        }
        if self.retry.is_none() && now.saturating_duration_since(self.used) >= IDLE_TIMEOUT {
            return Due::Idle;
        }
        if is_over(self.silence) {
            self.silence = None;
            return Due::Initiation;
        }
        if is_over(self.keepalive) {
            self.keepalive = std::mem::take(&mut self.another_keepalive).then(|| now + KEEPALIVE_TIMEOUT);
            return Due::Keepalive;
        }
        Due::Nothing
    }

    /// Whether nothing came from the peer for so long that it may have lost our keys.
    pub(crate) fn is_quiet(&self, now: Instant) -> bool {
        self.heard.is_none_or(|heard| now.saturating_duration_since(heard) >= SILENCE)
    }

    /// The initiation just sent is not to be repeated.
    pub(crate) const fn try_once(&mut self) {
        self.retry = None;
        self.unanswered_since = None;
        self.attempts = 0;
    }

    /// Whether a handshake may begin: none did within the last five seconds, and none is being tried.
    pub(crate) fn may_initiate(&self, now: Instant) -> bool {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < REKEY_TIMEOUT;
        self.retry.is_none() && !self.initiated.is_some_and(is_recent)
    }

    /// There was no room for an initiation: it is to be tried again soon.
    pub(crate) fn postpone_initiation(&mut self, now: Instant) {
        self.unanswered_since.get_or_insert(now);
        self.retry = Some(now + NO_ROOM);
    }

    /// Begins a handshake: writes an initiation to `out`. `None` where the peer's key is of low order.
    pub(crate) fn initiate(
        &mut self,
        (index, stamp): (u32, &Stamp),
        random: &mut Random,
        out: &mut [u8],
        now: Instant,
    ) -> Option<usize> {
        let message: &mut [u8; INITIATION] = out.get_mut(..INITIATION)?.try_into().ok()?;
        let us = Acquaintance { local: &self.local_key, peer: &self.peer_key, shared: &self.shared };
        let ephemeral = StaticSecret::from(*random.secret());
        let noise = Initiator::write(&us, ephemeral, index, stamp, message)?;
        self.jar.sign(&MacKeys::new(&self.peer_key), message, now)?;
        self.forget_pending();
        self.pending = Some(Box::new(Pending { index, noise, sent: now }));
        self.attempts = self.attempts.saturating_add(1);
        self.unanswered_since.get_or_insert(now);
        self.initiated = Some(now);
        self.retry = Some(now + REKEY_TIMEOUT + Duration::from_millis(random.below(JITTER_MILLISECONDS + 1)));
        self.traffic.tx_bytes += bytes(INITIATION);
        Some(INITIATION)
    }

    /// Answers an authentic and new initiation: writes a response to `out`.
    pub(crate) fn respond(
        &mut self,
        (proven, index): (Proven, u32),
        (preshared, suite): (&[u8; 32], Suite),
        random: &mut Random,
        out: &mut [u8],
        now: Instant,
    ) -> Result<usize, DropReason> {
        let message: &mut [u8; RESPONSE] =
            out.get_mut(..RESPONSE).and_then(|out| out.try_into().ok()).ok_or(DropReason::TooLong)?;
        let remote_index = proven.sender;
        let ephemeral = StaticSecret::from(*random.secret());
        let keys = proven.respond((&self.peer_key, &suite.preshared(preshared)), &ephemeral, index, message)?;
        self.jar.sign(&MacKeys::new(&self.peer_key), message, now).ok_or(DropReason::HandshakeInvalid)?;
        let facts = KeyFacts { local_index: index, remote_index, suite, is_initiator: false, born: now };
        let jitter = self.draw_jitter(random);
        self.keys.add(&keys, facts, jitter).ok_or(DropReason::HandshakeInvalid)?;
        self.used = now;
        self.heard = Some(now);
        self.traffic.rx_bytes += bytes(INITIATION);
        self.traffic.tx_bytes += bytes(RESPONSE);
        Ok(RESPONSE)
    }

    /// Takes the answer to our initiation. The key is proven to us; a keepalive has to prove it to the other side.
    pub(crate) fn accept_response(
        &mut self,
        (gate, preshared, suite): (&Gate, &[u8; 32], Suite),
        message: &[u8],
        random: &mut Random,
        now: Instant,
    ) -> Result<(), DropReason> {
        if !gate.recognises(message) {
            return Err(DropReason::BadMac1);
        }
        let (Some(remote_index), Some(receiver)) = (u32_at(message, 4), u32_at(message, 8)) else {
            return Err(DropReason::Malformed);
        };
        let pending = self.pending.as_ref().filter(|pending| pending.index == receiver);
        let pending = pending.ok_or(DropReason::HandshakeInvalid)?;
        let keys = pending.noise.read_response(gate.secret(), &suite.preshared(preshared), message)?;
        let facts = KeyFacts { local_index: receiver, remote_index, suite, is_initiator: true, born: pending.sent };
        // its index lives on as the key's
        self.pending = None;
        let jitter = self.draw_jitter(random);
        self.keys.add(&keys, facts, jitter).ok_or(DropReason::HandshakeInvalid)?;
        self.completed(now);
        self.initiator = true;
        self.used = now;
        self.heard = Some(now);
        self.traffic.rx_bytes += bytes(message.len());
        Ok(())
    }

    /// Takes a cookie for the next handshake message; it is not sent at once (§5.4.7).
    pub(crate) fn accept_cookie(&mut self, message: &[u8], now: Instant) -> Result<(), DropReason> {
        self.jar.take(&MacKeys::new(&self.peer_key), message, now).ok_or(DropReason::CookieInvalid)
    }

    /// Opens a data message in place: what was sealed is at `16..len - 16` afterwards.
    pub(crate) fn open(
        &mut self,
        header: (u32, u64),
        message: &mut [u8],
        now: Instant,
    ) -> Result<Progress, DropReason> {
        let progress = self.keys.open(header, message, now)?;
        if progress.proves {
            self.completed(now);
            self.initiator = false;
            self.forget_pending();
        }
        self.silence = None;
        self.heard = Some(now);
        if message.len() > DATA_OVERHEAD {
            self.used = now;
            if self.keepalive.is_some() {
                self.another_keepalive = true;
            } else {
                self.keepalive = Some(now + KEEPALIVE_TIMEOUT);
                self.armed = true;
            }
        }
        self.traffic.rx_bytes += bytes(message.len());
        Ok(progress)
    }

    /// Seals a message in place: 16 bytes for the header, the padded packet, 16 for the tag. Without a packet it is a
    /// keepalive.
    ///
    /// # Errors
    /// [`DropReason::KeyExpired`]: there is no key to send with.
    pub(crate) fn seal(&mut self, message: &mut [u8], now: Instant) -> Result<Renewal, DropReason> {
        let renewal = self.keys.seal(message, now)?;
        self.keepalive = None;
        if message.len() > DATA_OVERHEAD {
            self.used = now;
            self.traffic.tx_packets += 1;
            if self.silence.is_none() {
                self.silence = Some(now + SILENCE + self.jitter);
                self.armed = true;
            }
        }
        self.traffic.tx_bytes += bytes(message.len());
        Ok(renewal)
    }

    /// A key is proven on both sides.
    fn completed(&mut self, now: Instant) {
        self.retry = None;
        self.unanswered_since = None;
        self.attempts = 0;
        self.established = Some(now);
    }

    fn forget_pending(&mut self) {
        self.freed.extend(self.pending.take().map(|pending| pending.index));
    }

    /// New jitter for the timers of a new key; returns that of its renewal.
    fn draw_jitter(&mut self, random: &mut Random) -> Duration {
        self.jitter = Duration::from_millis(random.below(JITTER_MILLISECONDS + 1));
        Duration::from_millis(random.below(RENEWAL_JITTER_MILLISECONDS))
    }

    #[cfg(test)]
    pub(crate) fn count_to(&mut self, counter: u64) {
        self.keys.count_to(counter);
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
