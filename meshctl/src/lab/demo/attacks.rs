//! Acts e and f: forged sources, replayed datagrams, and an identity that is withdrawn.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::facts::MESH_PORT;
use super::super::pcap;
use super::super::probe::exchange::Protocol;
use super::super::probe::forge::{self, Forgery};
use super::story::{SOON, Story};

const CLIENT: &str = "demo/client";
const SERVER: &str = "demo/server";
/// How many packets are forged, and at most replayed.
const FORGED: u64 = 5;
/// The promise of feature F4: a withdrawn binding ends traffic within two seconds.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(2);
/// So many pings in a row without an answer are silence.
const MISSED: u32 = 5;

/// (e) A pod sends under another's address.
pub(super) fn spoofed(story: &mut Story<'_>) -> anyhow::Result<()> {
    story.report.section("e  Attacks: a forged source, a replayed datagram, a changed one")?;
    for is_v4 in [true, false] {
        let of = |pod: &str| -> anyhow::Result<Option<IpAddr>> {
            Ok(story.addresses(pod)?.into_iter().find(|a| a.is_ipv4() == is_v4))
        };
        let (Some(from), Some(to)) = (of("plain/server")?, of(SERVER)?) else { continue };
        let forgery = Forgery { from, to, protocol: Protocol::Udp, port: 8080, marker: "weft-demo-forged".into() };
        let packet = forgery.packet()?;
        let before = story.drops("n1", "spoofed_source")?;
        let capture = story.capture()?;
        let send = || (0..FORGED).try_for_each(|_| forge::send(&packet));
        story.netns(CLIENT)?.within(send)??;
        let markers = pcap::count(&capture.end()?, b"weft-demo-forged");
        let counted = story.drops("n1", "spoofed_source")? - before;
        let observed = json!({ "forged": FORGED, "spoofedSource": counted, "markersOnTheWire": markers });
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        let ok = counted >= FORGED && markers == 0;
        story.report.check(
            &format!("e: a forged {family} source is dropped where it enters, and counted"),
            ok,
            &observed,
        )?;
    }
    Ok(())
}

/// (e) Somebody on the wire sends again what he has heard, as it was and with one bit turned.
pub(super) fn replayed(story: &mut Story<'_>) -> anyhow::Result<()> {
    let server = story.ipv4(SERVER)?;
    story.wait("the session is there", SOON, || Ok(story.reaches(CLIENT, server)?.then_some(())))?;
    let capture = story.capture()?;
    story.send(CLIENT, server, (Protocol::Icmp, 64), "weft-demo-e-replay")?;
    let wire = capture.end()?;
    let n2 = story.lab.facts.node("n2").map(|n| n.host.addresses.clone()).unwrap_or_default();
    let to_n2 = |packet: &Vec<u8>| {
        packet::ip::IpPacket::parse(packet).is_ok_and(|p| n2.iter().any(|a| a.addr() == p.destination()))
    };
    // the last ones: transport data under the key in use
    let heard: Vec<Vec<u8>> = pcap::udp_to(&wire, MESH_PORT)?.into_iter().filter(to_n2).map(forge::mended).collect();
    let heard: Vec<Vec<u8>> = heard.into_iter().rev().take(3).collect();
    let delivered = story.status("n2")?.traffic.received_packets;
    for (what, reason) in [("replayed", "replay"), ("changed", "aead_failure")] {
        let before = story.drops("n2", reason)?;
        let packets: Vec<Vec<u8>> = heard
            .iter()
            .map(|p| if what == "changed" { forge::flipped(ahead(p.clone())) } else { p.clone() })
            .collect();
        story.netns("stranger")?.within(|| packets.iter().try_for_each(|p| forge::send(p)))??;
        let wanted = u64::try_from(packets.len())?;
        let look = || Ok(Some(story.drops("n2", reason)? - before).filter(|n| *n >= wanted));
        let counted = story.wait("they are counted", SOON, look).map_or(0, |(n, _)| n);
        let got_in = story.status("n2")?.traffic.received_packets - delivered;
        let observed = json!({ "sent": wanted, "droppedAs": reason, "counted": counted, "delivered": got_in });
        let ok = wanted > 0 && counted >= wanted && got_in == 0;
        story.report.check(&format!("e: a {what} datagram is dropped and counted"), ok, &observed)?;
    }
    Ok(())
}

/// The datagram with a counter far ahead, so that its tag is judged and not only its place in the window. Transport data
/// is type, three zeros, receiver, then the counter at byte 8 (WireGuard paper, section 5.4.6).
fn ahead(mut packet: Vec<u8>) -> Vec<u8> {
    let header = packet::ip::IpPacket::parse(&packet).map_or(0, |p| p.payload_offset()) + 8;
    if let Some(counter) = packet.get_mut(header + 8..header + 16) {
        counter.copy_from_slice(&900_u64.to_le_bytes());
    }
    packet
}

/// (f) The server's binding is withdrawn: both directions stop, and come back when it is restored.
pub(super) fn withdrawn(story: &mut Story<'_>) -> anyhow::Result<()> {
    story.report.section("f  A withdrawn identity")?;
    let (client, server) = (story.ipv4(CLIENT)?, story.ipv4(SERVER)?);
    let identity = format!("spiffe://{}/ns/demo/sa/server", story.lab.facts.config.trust_domain);
    let before = story.reaches(CLIENT, server)?;
    let begin = Instant::now();
    story.ask_controller(&json!({ "verb": "revoke", "identity": identity }))?;
    let mut last_answer = Duration::ZERO;
    let mut missed = 0;
    let stopped = story.wait("nothing passes any more", SOON, || {
        let is_answered = story.pings(CLIENT, server)?;
        if is_answered {
            (last_answer, missed) = (begin.elapsed(), 0);
        } else {
            missed += 1;
        }
        Ok((missed >= MISSED).then_some(()))
    });
    let other_way = story.reaches(SERVER, client)?;
    let observed = json!({
        "identity": identity,
        "servedBefore": before,
        "lastAnswerAfterMilliseconds": u64::try_from(last_answer.as_millis())?,
        "servedTheOtherWay": other_way,
    });
    let in_time = stopped.is_ok() && last_answer < WITHDRAWN_WITHIN;
    story.report.check("f: traffic stops within 2 s, both ways", before && in_time && !other_way, &observed)?;
    story.ask_controller(&json!({ "verb": "restore", "identity": identity }))?;
    let back = story.wait("it is served again", SOON, || Ok(story.reaches(CLIENT, server)?.then_some(())));
    let observed = json!({ "milliseconds": back.as_ref().ok().map(|(_, took)| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)) });
    story.report.check("f: restored, it is served again", back.is_ok(), &observed)
}
