//! One WireGuard session between two static keys; the only file that knows boringtun.
//!
//! boringtun's `Tunn` is two peers' handshake state and up to eight session keys. Around it this file keeps what `Tunn`
//! does not tell or does not check: which key is how old and proven, which counter was the newest, when an initiation
//! left. Everything else about the protocol library (decision 0002) stays in here.
//!
//! Time: `Tunn`, its rate limiter and its timestamps read the clock themselves. The engine's `now` decides everything
//! that is decided here; with feature `mock-clock` boringtun's clock stands still until it is advanced by hand.
//!
//! ```text
//!              initiate                 accept_response
//!   (nothing) ─────────▶ initiation sent ──────────────▶ key proven ──── 180 s ───▶ key gone
//!       │                    │ 5 s + jitter: again            ▲
//!       │ accept_initiation  │ 90 s: Ticked::GaveUp           │ first data message opens
//!       └───────────────▶ key unproven ───────────────────────┘
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::drop::DropReason;
use crate::index::{Pair, Slot};
use crate::message::u32_at;
use crate::random::Random;
use crate::session_key::{Progress, REJECT_AFTER_TIME, SessionKeys};

/// A session that nobody used for this long is dropped. Every key of it is then too old, so that nothing is lost but
/// memory.
pub const IDLE_TIMEOUT: Duration = REJECT_AFTER_TIME;
/// An unanswered initiation is repeated after this time plus jitter (WireGuard paper §6.1, `REKEY_TIMEOUT`).
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The jitter is uniform below this (§6.1: up to 333 ms).
const JITTER_MILLISECONDS: u64 = 333;
/// `Tunn` wants to be ticked this often: GotaTun's and boringtun's own figure.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// A session that carried nothing for this long needs no ticks: a keepalive is due 10 s after data came, a handshake 15 s
/// after data went unanswered, and both tick before. (With ticks `Tunn` would renew an idle session's key at 120 s.)
const QUIET_AFTER: Duration = Duration::from_secs(30);

/// A local private key with what is computed from it once.
pub(crate) struct Gate {
    secret: StaticSecret,
    public: PublicKey,
    /// Checks `mac1` only: its limit is never reached. `Tunn` checks with the same, so that nothing is counted twice.
    open: Arc<RateLimiter>,
    /// Always under load: asks for `mac2`, and makes the cookies.
    strict: RateLimiter,
}

impl Gate {
    pub(crate) fn new(secret: StaticSecret) -> Self {
        let public = PublicKey::from(&secret);
        let open = Arc::new(RateLimiter::new(&public, u64::MAX));
        Self { secret, public, open, strict: RateLimiter::new(&public, 0) }
    }

    pub(crate) const fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn is_of(&self, secret: &StaticSecret) -> bool {
        self.secret.as_bytes() == secret.as_bytes()
    }

    /// Whether a handshake message was made for this key.
    pub(crate) fn recognises(&self, message: &[u8]) -> bool {
        self.open.verify_packet(None, message, &mut []).is_ok()
    }

    /// Under load: whether the sender has proven to be at `source`. If not, `Some` length of the cookie reply in `out`.
    pub(crate) fn demand_cookie(&self, source: IpAddr, message: &[u8], out: &mut [u8]) -> Option<usize> {
        let Err(TunnResult::WriteToNetwork(reply)) = self.strict.verify_packet(Some(source), message, out) else {
            return None;
        };
        Some(reply.len())
    }

    /// The static key that an initiation claims; one curve operation.
    pub(crate) fn claimed_key(&self, message: &[u8]) -> Option<[u8; 32]> {
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(message) else { return None };
        parse_handshake_anon(&self.secret, &self.public, &initiation).ok().map(|half| half.peer_static_public)
    }
}

/// The epochs of the two static keys of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What became of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticked {
    Nothing,
    /// So many bytes of the buffer are a datagram to send.
    Send(usize),
    /// The peer did not answer for so long that the session is over.
    GaveUp,
}

/// What became of a packet to seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// So many bytes of the buffer are a datagram to send; 0 where `Tunn` kept the packet for later.
    pub(crate) length: usize,
    /// The key has sealed so many messages that it should be renewed.
    pub(crate) rekey: bool,
}

/// An authenticated data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Length of the inner packet; 0 for a keepalive. `Err` where it is no IP packet, although its sender is known.
    pub(crate) length: Result<usize, DropReason>,
    /// Where it stands among the messages of its key.
    pub(crate) progress: Progress,
}

/// One session.
pub(crate) struct Session {
    pair: Pair,
    epochs: Epochs,
    local_key: PublicKey,
    peer_key: PublicKey,
    tunn: Tunn,
    keys: SessionKeys,
    ticked: Instant,
    /// Our last two initiations, the later one last: sender index, and when it left. `Tunn` takes answers to both.
    initiations: [Option<(u32, Instant)>; 2],
    /// It has not been answered: when to repeat it.
    retry: Option<Instant>,
    /// Initiations in a row without an answer.
    attempts: u32,
    used: Instant,
    /// `Tunn` keeps packets in its own queue.
    has_kept: bool,
    pub(crate) traffic: Traffic,
    established: Option<Instant>,
    initiator: bool,
}

impl Session {
    pub(crate) fn new(pair: Pair, epochs: Epochs, gate: &Gate, peer_key: PublicKey, slot: Slot, now: Instant) -> Self {
        Self {
            pair,
            epochs,
            local_key: gate.public,
            peer_key,
            tunn: new_tunn(gate, peer_key, slot),
            keys: SessionKeys::default(),
            ticked: now,
            initiations: [None; 2],
            retry: None,
            attempts: 0,
            used: now,
            has_kept: false,
            traffic: Traffic::default(),
            established: None,
            initiator: false,
        }
    }

    pub(crate) const fn pair(&self) -> Pair {
        self.pair
    }

    pub(crate) const fn epochs(&self) -> Epochs {
        self.epochs
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

    /// Whether an initiation is out that will be repeated.
    pub(crate) const fn is_retrying(&self) -> bool {
        self.retry.is_some()
    }

    /// When this session wants to be looked at next, unless it is used before.
    pub(crate) fn deadline(&self, now: Instant) -> Instant {
        let is_quiet = now.saturating_duration_since(self.used) >= QUIET_AFTER;
        let deadline = match self.retry {
            Some(retry) if is_quiet => retry,
            Some(retry) => retry.min(now + TICK),
            None if is_quiet => self.used + IDLE_TIMEOUT,
            None => now + TICK,
        };
        deadline.max(now)
    }

    /// Whether it is time for a tick although nobody uses the session.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let is_quiet = now.saturating_duration_since(self.used) >= QUIET_AFTER;
        (!is_quiet || self.retry.is_some()) && self.wants_tick(now)
    }

    /// Whether nobody has used the session for so long that all its keys are dead.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) >= IDLE_TIMEOUT && self.retry.is_none()
    }

    /// Whether there is a key to send with.
    pub(crate) fn is_established(&self, now: Instant) -> bool {
        self.keys.can_send(now)
    }

    /// Whether the session has to be ticked before it is used: `Tunn` only notices at a tick that a key is too old, and
    /// stamps what happens with the time of its last tick.
    pub(crate) fn wants_tick(&self, now: Instant) -> bool {
        match self.retry {
            // the jitter: between five seconds after the initiation and `retry` no tick may repeat it
            Some(retry) if now + Duration::from_millis(JITTER_MILLISECONDS) >= retry => now >= retry,
            _ => now.saturating_duration_since(self.ticked) >= TICK,
        }
    }

    /// Lets `Tunn` look at the clock. `out` must have room for a handshake message.
    pub(crate) fn tick(&mut self, out: &mut [u8], random: &mut Random, now: Instant) -> Ticked {
        self.ticked = now;
        self.keys.prune(now);
        // if `Tunn` does not repeat the initiation now, it has its reasons: back to the ordinary rhythm
        self.retry = self.retry.filter(|retry| now < *retry);
        match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(datagram) => {
                let length = datagram.len();
                self.note_sent(datagram, random, now);
                Ticked::Send(length)
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) => Ticked::GaveUp,
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => Ticked::Nothing,
        }
    }

    /// Begins a handshake, unless one began within the last five seconds. Returns the initiation's length in `out`.
    pub(crate) fn initiate(&mut self, out: &mut [u8], random: &mut Random, now: Instant) -> Option<usize> {
        let [_, last] = self.initiations;
        if last.is_some_and(|(_, at)| now.saturating_duration_since(at) < REKEY_TIMEOUT) || self.retry.is_some() {
            return None;
        }
        let TunnResult::WriteToNetwork(datagram) = self.tunn.format_handshake_initiation(out, false) else {
            return None;
        };
        let length = datagram.len();
        self.note_sent(datagram, random, now);
        Some(length)
    }

    /// Answers an initiation. Returns the response's length in `out`.
    pub(crate) fn accept_initiation(
        &mut self,
        message: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Result<usize, DropReason> {
        let response = answer(self.tunn.decapsulate(None, message, out))?;
        let (Some(local_index), Some(remote_index)) = (u32_at(response, 4), u32_at(message, 4)) else {
            return Err(DropReason::HandshakeInvalid);
        };
        let length = response.len();
        self.keys.add((local_index, remote_index), false, now);
        // `Tunn` repeats its own initiation no more; an answer to it would still be taken
        self.retry = None;
        self.used = now;
        self.traffic.rx_bytes += bytes(message.len());
        self.traffic.tx_bytes += bytes(length);
        Ok(length)
    }

    /// Takes the answer to our initiation. Returns the length of the keepalive in `out` that proves the key to the
    /// other side.
    pub(crate) fn accept_response(
        &mut self,
        message: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Result<usize, DropReason> {
        let keepalive = answer(self.tunn.decapsulate(None, message, out))?.len();
        let (Some(local_index), Some(remote_index)) = (u32_at(message, 8), u32_at(message, 4)) else {
            return Err(DropReason::HandshakeInvalid);
        };
        let initiation = self.initiations.iter().flatten().find(|(index, _)| *index == local_index);
        self.keys.add((local_index, remote_index), true, initiation.map_or(now, |(_, at)| *at));
        self.retry = None;
        self.attempts = 0;
        self.used = now;
        self.established = Some(now);
        self.initiator = true;
        self.traffic.rx_bytes += bytes(message.len());
        self.traffic.tx_bytes += bytes(keepalive);
        Ok(keepalive)
    }

    /// Takes a cookie for the next initiation; it is not sent at once (WireGuard paper §5.4.7).
    pub(crate) fn accept_cookie(&mut self, message: &[u8], out: &mut [u8]) -> Result<(), DropReason> {
        let is_taken = matches!(self.tunn.decapsulate(None, message, out), TunnResult::Done);
        if is_taken { Ok(()) } else { Err(DropReason::CookieInvalid) }
    }

    /// Opens a data message. `out` must be as long as the message.
    pub(crate) fn open(
        &mut self,
        message: &[u8],
        (receiver, counter): (u32, u64),
        out: &mut [u8],
        now: Instant,
    ) -> Result<Opened, DropReason> {
        self.keys.admit(receiver, counter, now)?;
        let length = inner_length(self.tunn.decapsulate(None, message, out))?;
        let progress = self.keys.opened(receiver, counter);
        if progress.proves {
            self.established = Some(now);
            self.initiator = false;
            self.attempts = 0;
        }
        self.used = now;
        self.traffic.rx_bytes += bytes(message.len());
        Ok(Opened { length, progress })
    }

    /// Seals a packet. `out` must have room for it and 32 bytes more, and for a handshake message.
    ///
    /// # Errors
    /// [`DropReason::KeyExpired`]: there is no key to send with.
    pub(crate) fn seal(
        &mut self,
        packet: &[u8],
        out: &mut [u8],
        random: &mut Random,
        now: Instant,
    ) -> Result<Sealed, DropReason> {
        if !self.is_established(now) {
            return Err(DropReason::KeyExpired);
        }
        let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(packet, out) else {
            // it has no key where we thought it had one, and queued the packet itself
            self.has_kept = true;
            return Ok(Sealed { length: 0, rekey: false });
        };
        let length = datagram.len();
        self.note_sent(datagram, random, now);
        if u32_at(datagram, 0) != Some(4) {
            self.has_kept = true;
            return Ok(Sealed { length, rekey: false });
        }
        let counter = datagram.get(8..).and_then(|rest| rest.first_chunk()).map(|word| u64::from_le_bytes(*word));
        let (Some(remote_index), Some(counter)) = (u32_at(datagram, 4), counter) else {
            return Err(DropReason::KeyExpired);
        };
        let rekey = self.keys.sealed(remote_index, counter, now)?;
        self.used = now;
        self.traffic.tx_packets += 1;
        Ok(Sealed { length, rekey })
    }

    /// Whether `Tunn` has queued packets itself.
    pub(crate) const fn has_kept(&self) -> bool {
        self.has_kept
    }

    /// What `Tunn` has queued itself and can send now: call until `None`.
    pub(crate) fn flush(&mut self, out: &mut [u8], random: &mut Random, now: Instant) -> Option<usize> {
        let TunnResult::WriteToNetwork(datagram) = self.tunn.decapsulate(None, &[], out) else {
            self.has_kept = false;
            return None;
        };
        let length = datagram.len();
        self.note_sent(datagram, random, now);
        Some(length)
    }

    fn note_sent(&mut self, datagram: &[u8], random: &mut Random, now: Instant) {
        self.traffic.tx_bytes += bytes(datagram.len());
        if u32_at(datagram, 0) == Some(1) {
            let [_, last] = self.initiations;
            self.initiations = [last, u32_at(datagram, 4).map(|index| (index, now))];
            self.attempts = self.attempts.saturating_add(1);
            self.retry = Some(now + REKEY_TIMEOUT + Duration::from_millis(random.below(JITTER_MILLISECONDS)));
        }
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(not(feature = "mock-clock"))]
fn new_tunn(gate: &Gate, peer_key: PublicKey, slot: Slot) -> Tunn {
    Tunn::new(gate.secret.clone(), peer_key, None, None, slot.0, Some(Arc::clone(&gate.open)))
}

/// A handshake's timestamp is the wall clock at the `Tunn`'s birth plus the mocked time since. Born at the mock clock's
/// zero, a `Tunn` that replaces another (a restarted node's) stamps later times than the old one, as in the real world.
/// The tick brings its timers to the present.
#[cfg(feature = "mock-clock")]
fn new_tunn(gate: &Gate, peer_key: PublicKey, slot: Slot) -> Tunn {
    use mock_instant::MockClock;
    let present = MockClock::time();
    MockClock::set_time(Duration::ZERO);
    let mut tunn = Tunn::new(gate.secret.clone(), peer_key, None, None, slot.0, Some(Arc::clone(&gate.open)));
    MockClock::set_time(present);
    // nothing can be due yet; a late present only says "expired", which the first handshake clears
    tunn.update_timers(&mut [0; crate::message::INITIATION]);
    tunn
}

/// Moves the mocked clock of this thread, which every session of the thread reads.
#[cfg(feature = "mock-clock")]
pub fn advance_mock_clock(by: Duration) {
    mock_instant::MockClock::advance(by);
}

/// What `Tunn` wants to send in answer to a handshake message.
fn answer(result: TunnResult<'_>) -> Result<&mut [u8], DropReason> {
    use WireGuardError as E;
    match result {
        TunnResult::WriteToNetwork(answer) => Ok(answer),
        TunnResult::Err(E::WrongTai64nTimestamp | E::InvalidTai64nTimestamp) => Err(DropReason::HandshakeReplay),
        TunnResult::Err(E::InvalidMac) => Err(DropReason::BadMac1),
        TunnResult::Err(E::WrongKey) => Err(DropReason::UnknownKey),
        TunnResult::Err(_) | TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
            Err(DropReason::HandshakeInvalid)
        }
    }
}

/// The length of the inner packet of an authenticated data message, 0 for a keepalive; or why there is none. The outer
/// error: it did not authenticate.
fn inner_length(result: TunnResult<'_>) -> Result<Result<usize, DropReason>, DropReason> {
    use WireGuardError as E;
    match result {
        TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => Ok(match packet.len() {
            // a packet whose total length says 0 (B6) is no keepalive
            0 => Err(DropReason::Malformed),
            length => Ok(length),
        }),
        TunnResult::Done => Ok(Ok(0)),
        // after the tag was checked this can only be about the inner packet
        TunnResult::Err(E::InvalidPacket) => Ok(Err(DropReason::Malformed)),
        TunnResult::Err(E::DuplicateCounter | E::InvalidCounter) => Err(DropReason::Replay),
        TunnResult::Err(E::InvalidAeadTag) => Err(DropReason::AeadFailure),
        TunnResult::Err(E::WrongIndex | E::NoCurrentSession) => Err(DropReason::UnknownIndex),
        TunnResult::Err(E::ConnectionExpired) => Err(DropReason::KeyExpired),
        TunnResult::Err(_) | TunnResult::WriteToNetwork(_) => Err(DropReason::Malformed),
    }
}
