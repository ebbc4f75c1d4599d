//! `mac1`, `mac2` and cookies, of both sides: who knows whom a message is for, and who has proven where it is.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use x25519_dalek::PublicKey;

use crate::hash::{Secret, has_mac, hash, mac};
use crate::message::COOKIE_REPLY;
use crate::random::Random;

/// Length of each of the two macs, and of a cookie.
const MAC: usize = 16;
/// For so long cookies are made of one secret (WireGuard paper §5.4.7: two minutes).
const SECRET_GIVES: Duration = Duration::from_secs(119);
/// For so long they are taken: a cookie of the last moment is good for the retry, which comes after 5.3 s at most.
const SECRET_TAKES: Duration = Duration::from_secs(125);
/// How long a cookie is used by whoever got it (Linux: `COOKIE_SECRET_MAX_AGE` less `COOKIE_SECRET_LATENCY`).
const COOKIE_LASTS: Duration = Duration::from_secs(115);

/// The keys of `mac1` and of cookies: everybody who knows the public key knows them.
#[derive(Clone)]
pub(crate) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl MacKeys {
    pub(crate) fn new(public: &PublicKey) -> Self {
        Self { mac1: hash(&[b"mac1----", public.as_bytes()]), cookie: hash(&[b"cookie--", public.as_bytes()]) }
    }

    /// Whether a handshake message was made for this public key.
    pub(crate) fn recognise(&self, message: &[u8]) -> bool {
        split(message).is_some_and(|(text, mac1, _)| has_mac(&self.mac1, &[text], mac1))
    }
}

/// A handshake message, `mac1` and `mac2`.
fn split(message: &[u8]) -> Option<(&[u8], &[u8; MAC], &[u8; MAC])> {
    let (rest, mac2) = message.split_last_chunk()?;
    let (text, mac1) = rest.split_last_chunk()?;
    Some((text, mac1, mac2))
}

/// What a session remembers in order to prove its own address: the cookie it was given, and what it was given for.
#[derive(Default)]
pub(crate) struct Jar {
    /// `mac1` of the last handshake message, until a cookie came for it.
    asked: Option<[u8; MAC]>,
    cookie: Option<([u8; MAC], Instant)>,
}

impl Jar {
    /// Writes both macs of a handshake message; `mac2` if there is a cookie.
    pub(crate) fn sign(&mut self, peer: &MacKeys, message: &mut [u8], now: Instant) -> Option<()> {
        let (rest, mac2) = message.split_last_chunk_mut::<MAC>()?;
        let (text, mac1) = rest.split_last_chunk_mut::<MAC>()?;
        *mac1 = mac(&peer.mac1, &[text]);
        self.asked = Some(*mac1);
        self.cookie = self.cookie.filter(|(_, since)| now.saturating_duration_since(*since) < COOKIE_LASTS);
        *mac2 = self.cookie.map_or([0; MAC], |(cookie, _)| mac(&cookie, &[rest]));
        Some(())
    }

    /// Takes a cookie. `None`: it does not authenticate, or is not for our last message, or came already.
    pub(crate) fn take(&mut self, peer: &MacKeys, reply: &[u8], now: Instant) -> Option<()> {
        let nonce: &[u8; 24] = reply.get(8..32)?.try_into().ok()?;
        let mut cookie: [u8; MAC] = reply.get(32..48)?.try_into().ok()?;
        let tag: &[u8; MAC] = reply.get(48..COOKIE_REPLY)?.try_into().ok()?;
        let asked = self.asked?;
        XChaCha20Poly1305::new(&peer.cookie.into())
            .decrypt_in_place_detached(nonce.into(), &asked, &mut cookie, tag.into())
            .ok()?;
        self.asked = None;
        self.cookie = Some((cookie, now));
        Some(())
    }
}

/// The cookies we give: one for each address and port, good for two minutes, and nothing to remember for any of them.
pub(crate) struct Cookies {
    secret: Secret,
    since: Instant,
    /// The secret before this one, and since when it had been in use.
    before: Option<(Secret, Instant)>,
}

impl Cookies {
    pub(crate) fn new(random: &mut Random, now: Instant) -> Self {
        Self { secret: random.secret(), since: now, before: None }
    }

    /// Whether the sender has proven to be at `from`.
    pub(crate) fn admits(&self, from: SocketAddr, message: &[u8], now: Instant) -> bool {
        let Some((rest, mac2)) = message.split_last_chunk::<MAC>() else { return false };
        let before = self.before.as_ref().map(|(secret, since)| (secret, *since));
        [Some((&self.secret, self.since)), before]
            .into_iter()
            .flatten()
            .filter(|(_, since)| now.saturating_duration_since(*since) < SECRET_TAKES)
            .any(|(secret, _)| has_mac(&cookie(secret, from), &[rest], mac2))
    }

    /// A cookie for `from`, in answer to this handshake message.
    pub(crate) fn reply(
        &mut self,
        keys: &MacKeys,
        from: SocketAddr,
        message: &[u8],
        random: &mut Random,
        now: Instant,
    ) -> Option<[u8; COOKIE_REPLY]> {
        self.rotate(random, now);
        let (_, mac1, _) = split(message)?;
        let mut made = cookie(&self.secret, from);
        let entropy = random.secret();
        let nonce: [u8; 24] = *entropy.first_chunk()?;
        let tag = XChaCha20Poly1305::new(&keys.cookie.into())
            .encrypt_in_place_detached((&nonce).into(), mac1, &mut made)
            .ok()?;
        let mut reply = [0; COOKIE_REPLY];
        reply[..4].copy_from_slice(&3u32.to_le_bytes());
        reply[4..8].copy_from_slice(message.get(4..8)?);
        reply[8..32].copy_from_slice(&nonce);
        reply[32..48].copy_from_slice(&made);
        reply[48..].copy_from_slice(&tag);
        Some(reply)
    }

    fn rotate(&mut self, random: &mut Random, now: Instant) {
        if now.saturating_duration_since(self.since) >= SECRET_GIVES {
            let old = std::mem::replace(&mut self.secret, random.secret());
            self.before = Some((old, std::mem::replace(&mut self.since, now)));
        }
    }
}

/// The cookie of an address and port.
fn cookie(secret: &Secret, from: SocketAddr) -> [u8; MAC] {
    let port = from.port().to_be_bytes();
    match from.ip() {
        IpAddr::V4(address) => mac(&**secret, &[&address.octets(), &port]),
        IpAddr::V6(address) => mac(&**secret, &[&address.octets(), &port]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::INITIATION;
    use crate::tests::epoch;

    const SECOND: Duration = Duration::from_secs(1);

    /// One side that is asked for a cookie, and the other.
    struct Pair {
        keys: MacKeys,
        cookies: Cookies,
        random: Random,
        jar: Jar,
        message: [u8; INITIATION],
    }

    impl Pair {
        fn new() -> Self {
            let mut random = Random::new([1; 32]);
            let cookies = Cookies::new(&mut random, epoch());
            let keys = MacKeys::new(&PublicKey::from([7; 32]));
            Self { keys, cookies, random, jar: Jar::default(), message: [5; INITIATION] }
        }

        fn sign(&mut self, now: Instant) {
            self.jar.sign(&self.keys, &mut self.message, now).unwrap();
        }

        fn reply(&mut self, from: SocketAddr, now: Instant) -> [u8; COOKIE_REPLY] {
            self.cookies.reply(&self.keys, from, &self.message, &mut self.random, now).unwrap()
        }
    }

    #[test]
    fn a_cookie_is_good_for_its_address_and_port_and_for_two_minutes() {
        for from in ["192.0.2.1:7", "[2001:db8::1]:7"] {
            let from: SocketAddr = from.parse().unwrap();
            let mut pair = Pair::new();
            pair.sign(epoch());
            assert!(pair.keys.recognise(&pair.message));
            assert!(!pair.cookies.admits(from, &pair.message, epoch()), "no cookie yet");
            let reply = pair.reply(from, epoch() + 100 * SECOND);
            pair.jar.take(&pair.keys, &reply, epoch() + 100 * SECOND).unwrap();
            let again = pair.jar.take(&pair.keys, &reply, epoch() + 100 * SECOND);
            assert_eq!(again, None, "one message is answered by one cookie");
            pair.sign(epoch() + 105 * SECOND);
            for (at, admitted) in [(105, true), (118, true), (124, true), (125, false), (300, false)] {
                assert_eq!(pair.cookies.admits(from, &pair.message, epoch() + at * SECOND), admitted, "{at} s");
            }
            let mut other = from;
            other.set_port(8);
            assert!(!pair.cookies.admits(other, &pair.message, epoch() + 105 * SECOND));
            // the secret is replaced when the next one asks; what was made of the old one is taken as long as before
            pair.reply(other, epoch() + 124 * SECOND);
            assert!(pair.cookies.admits(from, &pair.message, epoch() + 124 * SECOND));
            assert!(!pair.cookies.admits(from, &pair.message, epoch() + 125 * SECOND));
        }
    }

    #[test]
    fn whoever_has_a_cookie_forgets_it_in_time() {
        let from: SocketAddr = "192.0.2.1:7".parse().unwrap();
        let mut pair = Pair::new();
        pair.sign(epoch());
        let reply = pair.reply(from, epoch());
        pair.jar.take(&pair.keys, &reply, epoch()).unwrap();
        pair.sign(epoch() + 114 * SECOND);
        assert_ne!(pair.message[132..], [0; 16]);
        pair.sign(epoch() + 115 * SECOND);
        assert_eq!(pair.message[132..], [0; 16]);
    }

    #[test]
    fn a_changed_cookie_is_no_cookie() {
        let from: SocketAddr = "192.0.2.1:7".parse().unwrap();
        let mut pair = Pair::new();
        assert_eq!(pair.jar.take(&pair.keys.clone(), &[0; COOKIE_REPLY], epoch()), None, "nothing was asked");
        pair.sign(epoch());
        let reply = pair.reply(from, epoch());
        for bit in 8 * 8..COOKIE_REPLY * 8 {
            let mut changed = reply;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(pair.jar.take(&pair.keys, &changed, epoch()), None, "bit {bit}");
        }
        pair.message[0] ^= 1;
        pair.sign(epoch());
        assert_eq!(pair.jar.take(&pair.keys, &reply, epoch()), None, "it is for another message");
    }
}
