//! ID-08 and ID-20 as tables, and the text form.

use proptest::prelude::*;
use x25519_dalek::{PublicKey, StaticSecret};

use super::*;
use crate::sign::tests::issuer;
use crate::spiffe::SPIFFE_ID_LENGTH_MAX;

fn td() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub(crate) fn binding() -> Binding {
    Binding {
        trust_domain: td(),
        spiffe_id: "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap(),
        public_key: *PublicKey::from(&StaticSecret::from([7; 32])).as_bytes(),
        node: NodeName("n1".to_owned()),
        node_uid: "uid-1".to_owned(),
        epoch: Epoch(20),
        not_before: UnixTime(10_000),
        not_after: UnixTime(20_000),
        suite: Suite::default(),
    }
}

type Change = fn(&mut Binding);

const NOW: UnixTime = UnixTime(15_000);

#[test]
fn id_08_a_binding_with_any_field_changed_is_refused() {
    let key = issuer();
    let verifier = key.verifier(td());
    let signed = binding().sign(&key).unwrap();
    assert_eq!(verifier.verify_binding(&signed, NOW, CLOCK_SKEW), Ok(()));
    let changes: [(&str, Change); 12] = [
        ("trust domain", |b| b.trust_domain = "other.local".parse().unwrap()),
        ("SPIFFE ID", |b| b.spiffe_id = "spiffe://cluster.local/ns/shop/sa/admin".parse().unwrap()),
        ("SPIFFE ID's trust domain", |b| b.spiffe_id = "spiffe://other.local/ns/shop/sa/cart".parse().unwrap()),
        ("public key", |b| b.public_key[31] ^= 1),
        ("node", |b| b.node = NodeName("n2".to_owned())),
        ("node UID", |b| b.node_uid = "uid-2".to_owned()),
        ("node and node UID, joined alike", |b| (b.node, b.node_uid) = (NodeName("n1u".into()), "id-1".into())),
        ("epoch", |b| b.epoch = Epoch(21)),
        ("notBefore", |b| b.not_before = UnixTime(9_999)),
        ("notAfter", |b| b.not_after = UnixTime(20_001)),
        ("suite", |b| b.suite = Suite::Aes256Gcm),
        ("notBefore and notAfter", |b| (b.not_before, b.not_after) = (UnixTime(14_999), UnixTime(15_001))),
    ];
    for (field, change) in changes {
        let mut changed = signed.clone();
        change(&mut changed.binding);
        let outcome = verifier.verify_binding(&changed, NOW, CLOCK_SKEW);
        assert!(matches!(outcome, Err(BindingError::Signature { .. })), "{field}: {outcome:?}");
    }
}

#[test]
fn id_08_every_flipped_bit_of_the_text_is_refused() {
    let key = issuer();
    let verifier = key.verifier(td());
    let text = binding().sign(&key).unwrap().encode();
    for at in 0..text.len() {
        for bit in 0..7 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            if let Ok(signed) = SignedBinding::decode(&changed) {
                assert!(verifier.verify_binding(&signed, NOW, CLOCK_SKEW).is_err(), "byte {at} bit {bit}: {changed}");
            }
        }
    }
}

#[test]
fn id_08_unsigned_foreign_and_wrongly_placed_bindings_are_refused() {
    let key = issuer();
    let verifier = key.verifier(td());
    let signed = binding().sign(&key).unwrap();

    let unsigned = SignedBinding { binding: binding(), signature: Vec::new() };
    assert!(matches!(verifier.verify_binding(&unsigned, NOW, CLOCK_SKEW), Err(BindingError::Signature { .. })));
    let by_other = binding().sign(&issuer()).unwrap();
    assert!(matches!(verifier.verify_binding(&by_other, NOW, CLOCK_SKEW), Err(BindingError::Signature { .. })));
    // the same key, but signed for another purpose
    let signature = key.sign("weft meshendpointslice v1", &binding().to_bytes()).unwrap();
    let other_purpose = SignedBinding { binding: binding(), signature };
    assert!(matches!(verifier.verify_binding(&other_purpose, NOW, CLOCK_SKEW), Err(BindingError::Signature { .. })));

    let here = (&NodeName("n1".to_owned()), "uid-1");
    assert_eq!(verifier.verify_binding_of(here, &signed, NOW, CLOCK_SKEW), Ok(()));
    for (node, uid) in [("n2", "uid-1"), ("n1", "uid-2"), ("n1", ""), ("", "uid-1")] {
        let outcome = verifier.verify_binding_of((&NodeName(node.to_owned()), uid), &signed, NOW, CLOCK_SKEW);
        assert!(matches!(outcome, Err(BindingError::Node { .. })), "{node} {uid}: {outcome:?}");
    }
}

#[test]
fn id_08_the_issuer_itself_cannot_say_what_can_never_be_right() {
    let key = issuer();
    let faults: [(Fault, Change); 6] = [
        (Fault::ForeignIdentity, |b| b.spiffe_id = "spiffe://other.local/ns/shop/sa/cart".parse().unwrap()),
        (Fault::EmptyValidity, |b| b.not_after = UnixTime(9_999)),
        (Fault::WeakKey, |b| b.public_key = [0; 32]),
        (Fault::NodeUid, |b| b.node_uid = String::new()),
        (Fault::NodeUid, |b| b.node_uid = "a b".to_owned()),
        (Fault::NodeName, |b| b.node = NodeName("../n1".to_owned())),
    ];
    for (fault, change) in faults {
        let mut unsound = binding();
        change(&mut unsound);
        let signed = unsound.sign(&key).unwrap();
        let outcome = key.verifier(td()).verify_binding(&signed, NOW, CLOCK_SKEW);
        assert!(matches!(&outcome, Err(BindingError::Unsound { fault: f, .. }) if *f == fault), "{fault}: {outcome:?}");
    }
    let elsewhere = key.verifier("other.local".parse().unwrap());
    let outcome = elsewhere.verify_binding(&binding().sign(&key).unwrap(), NOW, CLOCK_SKEW);
    assert!(matches!(outcome, Err(BindingError::TrustDomain { .. })), "{outcome:?}");
}

/// One tick before, at and after each end; the tolerance is for early clocks only.
#[test]
fn id_20_a_binding_counts_from_five_minutes_before_it_begins_to_the_second_it_ends() {
    let key = issuer();
    let verifier = key.verifier(td());
    let signed = binding().sign(&key).unwrap();
    for (wall, good) in
        [(0, false), (9_699, false), (9_700, true), (9_701, true), (20_000, true), (20_001, false), (u64::MAX, false)]
    {
        let outcome = verifier.verify_binding(&signed, UnixTime(wall), CLOCK_SKEW);
        assert_eq!(outcome.is_ok(), good, "at {wall}: {outcome:?}");
    }
    assert!(verifier.verify_binding(&signed, UnixTime(9_999), Duration::ZERO).is_err());
    assert!(verifier.verify_binding(&signed, UnixTime(10_000), Duration::ZERO).is_ok());
    let ended = Verifier { not_after: UnixTime(14_999), ..verifier };
    let outcome = ended.verify_binding(&signed, NOW, CLOCK_SKEW);
    assert!(matches!(outcome, Err(BindingError::IssuerExpired { .. })), "{outcome:?}");
}

#[test]
fn keys_of_low_order_are_exactly_those_that_make_a_known_secret() {
    let us = StaticSecret::from([0x42; 32]);
    let contributes = |key: [u8; 32]| us.diffie_hellman(&PublicKey::from(key)).was_contributory();
    let mut candidates: Vec<[u8; 32]> = Vec::new();
    for low in 0..=255_u8 {
        for filling in [0, 0xff] {
            for top in [0, 0x7f, 0x80, 0xff] {
                let mut key = [filling; 32];
                (key[0], key[31]) = (low, top);
                candidates.push(key);
            }
        }
    }
    // the two of order 8, with either top bit
    let hex8 = [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ];
    for hex in hex8 {
        let mut key: [u8; 32] = std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap());
        assert!(!contributes(key), "{hex}");
        candidates.push(key);
        key[31] ^= 0x80;
        candidates.push(key);
    }
    for key in candidates {
        assert_eq!(is_low_order(&key), !contributes(key), "{key:02x?}");
    }
}

#[test]
fn the_longest_binding_fits_and_one_byte_more_is_refused() {
    let domain = "a".repeat(255);
    let mut longest = binding();
    longest.trust_domain = domain.parse().unwrap();
    let path = "b".repeat(SPIFFE_ID_LENGTH_MAX - "spiffe://".len() - 255 - 1);
    longest.spiffe_id = format!("spiffe://{domain}/{path}").parse().unwrap();
    longest.node = format!("{}.{}", "n".repeat(126), "m".repeat(126)).parse().unwrap();
    longest.node_uid = "u".repeat(crate::name::NODE_UID_LENGTH_MAX);
    let signed = SignedBinding { binding: longest, signature: vec![0; SIGNATURE_LENGTH_MAX] };
    assert_eq!(SignedBinding::decode(&signed.encode()), Ok(signed));
    let long = format!("weftb1.{}.AA", "A".repeat(ENCODED_LENGTH_MAX));
    assert_eq!(SignedBinding::decode(&long), Err(DecodeError::TooLong { length: long.len() }));
}

fn any_binding() -> impl Strategy<Value = SignedBinding> {
    let domain = "[a-z0-9._-]{1,30}";
    let node = "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\\.[a-z0-9]{1,10}){0,2}";
    let parts =
        (domain, "[a-zA-Z0-9_-]{1,40}", any::<[u8; 32]>(), node, "[a-zA-Z0-9_-]{1,64}", any::<([u64; 3], bool)>());
    (parts, proptest::collection::vec(any::<u8>(), 0..=SIGNATURE_LENGTH_MAX)).prop_map(|(parts, signature)| {
        let (domain, path, public_key, node, node_uid, ([epoch, not_before, not_after], fast)) = parts;
        let binding = Binding {
            trust_domain: domain.parse().unwrap(),
            spiffe_id: format!("spiffe://{domain}/{path}").parse().unwrap(),
            public_key,
            node: node.parse().unwrap(),
            node_uid,
            epoch: Epoch(epoch),
            not_before: UnixTime(not_before),
            not_after: UnixTime(not_after),
            suite: if fast { Suite::Aes256Gcm } else { Suite::default() },
        };
        SignedBinding { binding, signature }
    })
}

proptest! {
    #[test]
    fn a_binding_comes_back_from_its_text(signed in any_binding()) {
        prop_assert_eq!(SignedBinding::decode(&signed.encode()), Ok(signed));
    }

    #[test]
    fn what_decodes_has_one_text(signed in any_binding(), at in any::<proptest::sample::Index>(), byte in 0x20_u8..0x7f) {
        let mut text = signed.encode().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let text = String::from_utf8(text).unwrap();
        if let Ok(decoded) = SignedBinding::decode(&text) {
            prop_assert_eq!(decoded.encode(), text);
        }
    }

    #[test]
    fn any_text_is_decoded_without_panic(text in "(weftb1\\.)?[A-Za-z0-9_.-]{0,200}", other in ".{0,100}") {
        let _decoded = SignedBinding::decode(&text);
        let _decoded = SignedBinding::decode(&other);
    }

    #[test]
    fn any_bytes_are_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _decoded = Binding::from_bytes(&bytes);
    }
}

/// A binding of WireGuard's own cipher is what it was before there was another; a default that is named is no canonical form,
/// and a suite that nobody here knows is not taken for one that somebody does.
#[test]
fn only_another_suite_than_the_default_is_named() {
    let plain = binding().to_bytes();
    let fast = Binding { suite: Suite::Aes256Gcm, ..binding() }.to_bytes();
    assert_eq!(fast[..plain.len()], plain);
    let named = |name: &str| {
        let length = u32::try_from(name.len()).unwrap().to_be_bytes();
        Binding::from_bytes(&[&plain, &length[..], name.as_bytes()].concat()).map(|binding| binding.suite)
    };
    assert_eq!(named("aes-256-gcm"), Some(Suite::Aes256Gcm));
    for name in ["chacha20-poly1305", "aes-512-gcm", ""] {
        assert_eq!(named(name), None, "{name}");
    }
}
