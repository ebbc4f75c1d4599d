//! PC-14: keys that are over are nowhere in the memory of the process.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::time::Duration;

use super::world::*;
use crate::Engine;
use crate::cipher::watch::{MASK, noted};

/// How often the process's writable memory holds these bytes, given masked.
#[expect(clippy::disallowed_methods, reason = "a test that looks at its own memory")]
fn copies(masked: &[u8; 32]) -> usize {
    let maps = BufReader::new(File::open("/proc/self/maps").unwrap());
    let mut memory = File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in maps.lines().map(Result::unwrap) {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") || line.ends_with("[vvar]") {
            continue;
        }
        let mut ends = range.split('-').map(|end| u64::from_str_radix(end, 16).unwrap());
        let (mut at, end) = (ends.next().unwrap(), ends.next().unwrap());
        // in overlapping windows of a fixed buffer, which is masked at once: it must not be found itself
        let mut window = vec![0u8; 1 << 16];
        while at < end {
            let wanted = usize::try_from((end - at).min(1 << 16)).unwrap();
            if memory.seek(SeekFrom::Start(at)).is_err() || memory.read_exact(&mut window[..wanted]).is_err() {
                break;
            }
            window[..wanted].iter_mut().for_each(|byte| *byte ^= MASK);
            found += window[..wanted].windows(32).filter(|bytes| bytes == masked).count();
            at += u64::try_from(wanted).unwrap().saturating_sub(if wanted == 1 << 16 { 31 } else { 0 });
        }
        window.fill(0);
    }
    found
}

/// Both transport keys and the ephemeral of a handshake are found while they count, and not once they are over.
#[test]
fn pc_14_keys_that_are_over_are_nowhere_in_memory() {
    let mut world = World::strangers(&["alice", "bob"]);
    for (name, peer, seed) in [("alice", "bob", 0xe1), ("bob", "alice", 0xe2)] {
        // keys that no other test of this process has
        world.node(name).engine = Engine::new([seed; 32], world.wall(), world.now);
        world.set_local(name, name, local_config(name, &[1]));
        world.set_peer(name, peer, peer_config(peer, &[1]));
    }
    world.say("alice", "bob", b"x");
    world.run();
    let masked = noted();
    assert!(masked.len() >= 4, "the keys of both sides were noted: {}", masked.len());
    let live: Vec<usize> = masked.iter().map(copies).collect();
    assert!(live.iter().any(|count| *count > 0), "the search does not find a key that is in use: {live:?}");
    world.wait(Duration::from_secs(541));
    let left: Vec<usize> = masked.iter().map(copies).collect();
    assert_eq!(left.iter().sum::<usize>(), 0, "copies of each key: {live:?} before, {left:?} after");
}
