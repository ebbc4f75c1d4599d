//! FZ-02: any bytes as an inner packet: parsed, and offered to an engine as what a workload sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use packet::IpPacket;
use wg_fuzz::World;

fuzz_target!(|input: &[u8]| {
    if let Ok(ip) = IpPacket::parse(input) {
        assert!(ip.total_length() <= input.len() && ip.payload().len() <= ip.total_length());
        let _ = (ip.source(), ip.destination(), ip.traffic_class(), packet::Flow::of(&ip));
    }
    let mut world = World::talking();
    let now = world.now;
    let _ = world.engines[0].handle_packet(input, now);
    let mut sealed = input.to_vec();
    world.collect();
    while let Some((to, datagram)) = world.wire.pop_front() {
        world.deliver(to, &datagram);
    }
    // what arrives is what left, exactly as long as its header says
    for (_, packet) in world.delivered.iter().skip(1) {
        sealed.truncate(packet.len());
        assert_eq!(*packet, sealed);
    }
});
