//! FZ-12: what boringtun takes and refuses of an initiation we take and refuse; a changed data message is refused by both.
#![no_main]

use boringtun::noise::{Tunn, TunnResult};
use libfuzzer_sys::fuzz_target;
use wg::{Engine, Handled, PublicKey};
use wg_fuzz::{Choices, engine, outer, packet, secret};

fn tunn(side: u8) -> Tunn {
    Tunn::new(secret(side), PublicKey::from(&secret(1 - side)), None, None, u32::from(side), None)
}

fn sent(engine: &mut Engine<u8, u8>) -> Option<Vec<u8>> {
    engine.poll_transmit().map(|transmit| transmit.datagram.to_vec())
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices(input);
    #[expect(clippy::disallowed_methods, reason = "a fuzz target is the shell of the engine")]
    let now = std::time::Instant::now();
    let (mut out, inside) = ([0; 2048], packet(0, 60, b"inside"));
    // who begins
    let (mut ours, mut theirs) = (engine(0, now), tunn(0));
    let initiation = if choices.byte() & 1 == 0 {
        ours.handle_packet(&inside, now).expect("the other is known");
        sent(&mut ours).expect("an initiation")
    } else {
        let TunnResult::WriteToNetwork(initiation) = theirs.encapsulate(&inside, &mut out) else {
            panic!("no initiation")
        };
        initiation.to_vec()
    };
    let mut changed = initiation;
    choices.change(&mut changed);
    let (mut our_answer, mut their_answer) = (engine(1, now), tunn(1));
    let _ = our_answer.handle_datagram(outer(0), &changed, now);
    let ours_takes = sent(&mut our_answer).is_some();
    let theirs_takes = matches!(their_answer.decapsulate(None, &changed, &mut out), TunnResult::WriteToNetwork(_));
    assert_eq!(ours_takes, theirs_takes, "{changed:02x?}");

    // we begin, boringtun answers, and data goes both ways
    let (mut ours, mut theirs) = (engine(0, now), tunn(1));
    ours.handle_packet(&inside, now).expect("the other is known");
    let initiation = sent(&mut ours).expect("an initiation");
    let TunnResult::WriteToNetwork(response) = theirs.decapsulate(None, &initiation, &mut out) else {
        panic!("no answer")
    };
    let response = response.to_vec();
    assert!(ours.handle_datagram(outer(1), &response, now).is_ok());
    while let Some(datagram) = sent(&mut ours) {
        let taken = theirs.decapsulate(None, &datagram, &mut out);
        assert!(!matches!(taken, TunnResult::Err(_)), "a genuine datagram is refused");
    }
    ours.handle_packet(&inside, now).expect("they talk");
    let genuine = sent(&mut ours).expect("data");
    let mut changed = genuine.clone();
    choices.change(&mut changed);
    let taken = matches!(theirs.decapsulate(None, &changed, &mut out), TunnResult::WriteToTunnelV4(..));
    assert_eq!(taken, changed == genuine);
    let TunnResult::WriteToNetwork(data) = theirs.encapsulate(&packet(1, 60, b"back"), &mut out) else {
        panic!("no data")
    };
    let genuine = data.to_vec();
    let mut changed = genuine.clone();
    choices.change(&mut changed);
    let taken = matches!(ours.handle_datagram(outer(1), &changed, now), Ok(Handled::Opened { .. }));
    assert_eq!(taken, changed == genuine);
});
