//! Certificates as PEM text (RFC 7468): nothing but certificates, and a known number of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// One certificate as PEM, lines of 64 characters.
pub(crate) fn encode(der: &[u8]) -> String {
    let mut text = format!("{BEGIN}\n");
    for (position, character) in STANDARD.encode(der).chars().enumerate() {
        if position > 0 && position % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n{END}\n"));
    text
}

/// All certificates of a text, at most `most`; `None` where there is anything else than white space between them.
pub(crate) fn decode(text: &str, most: usize) -> Option<Vec<Vec<u8>>> {
    let mut certificates = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if certificates.len() == most {
            return None;
        }
        let (body, after) = rest.strip_prefix(BEGIN)?.split_once(END)?;
        let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        certificates.push(STANDARD.decode(body).ok()?);
        rest = after.trim_start();
    }
    Some(certificates)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn certificates_come_back_from_pem(ders in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let text: String = ders.iter().map(|der| encode(der)).collect();
            prop_assert!(text.lines().all(|line| line.len() <= 64));
            prop_assert_eq!(decode(&text, 4), Some(ders));
        }

        #[test]
        fn any_text_is_decoded_without_panic(text in "(-----BEGIN CERTIFICATE-----)?.{0,80}(-----END CERTIFICATE-----)?") {
            let _decoded = decode(&text, 4);
        }
    }

    #[test]
    fn only_certificates_and_only_so_many() {
        let one = encode(b"abc");
        assert_eq!(decode(&one, 0), None);
        assert_eq!(decode(&format!("{one}{one}"), 1), None);
        assert_eq!(decode("", 4), Some(Vec::new()));
        for bad in
            [format!("x{one}"), format!("{one}x"), one.replace("CERTIFICATE", "PRIVATE KEY"), one[..40].to_owned()]
        {
            assert_eq!(decode(&bad, 4), None, "{bad}");
        }
    }
}
