//! Lower-case hexadecimal: one form only, so that a text and its bytes are the same thing.

/// Exactly `N` bytes from `2 * N` digits of 0-9, a-f.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |d: u8| match d {
        b'0'..=b'9' => Some(d - b'0'),
        b'a'..=b'f' => Some(d - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
        let [high, low] = *pair;
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// Two digits a byte.
pub(crate) fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_back_from_their_digits(bytes in any::<[u8; 16]>()) {
            prop_assert_eq!(decode::<16>(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn what_decodes_has_one_text(text in "[0-9a-fA-F]{4}|.{0,5}") {
            if let Some(bytes) = decode::<2>(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
