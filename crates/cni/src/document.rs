//! JSON from outside, read within bounds: length, depth and number of values are known before anything is built.

use serde_json::{Map, Value};
use thiserror::Error;

/// How much of a document is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Longest document, in bytes.
    pub bytes_max: usize,
    /// Deepest nesting of objects and arrays. Below `serde_json`'s own limit of 128.
    pub depth_max: usize,
    /// Most values, counted by their separators. A value costs up to 0.5 KiB once it is built, so that this bounds
    /// the memory: a megabyte of `{"a":0},` would otherwise become sixty.
    pub values_max: usize,
}

/// For a network configuration on stdin. The largest honest one is that of GC: 100 bytes and three values for each
/// attachment of a node, of which there are hundreds; 1 MiB has room for 9,000.
pub const CONFIGURATION: Bounds = Bounds { bytes_max: 1 << 20, depth_max: 64, values_max: 65_536 };

/// For a line between plugin and daemon: a configuration, with room for what is put around it and for escapes.
pub const LINE: Bounds = Bounds { bytes_max: 4 << 20, depth_max: 72, values_max: 70_000 };

/// Why bytes are not a document that we take.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// Nothing, or white space alone.
    #[error("nothing was given")]
    Empty,
    /// Too long.
    #[error("it is longer than {bytes_max} bytes")]
    Long {
        /// The bound.
        bytes_max: usize,
    },
    /// Too deep.
    #[error("it is nested deeper than {depth_max} levels")]
    Deep {
        /// The bound.
        depth_max: usize,
    },
    /// Too much.
    #[error("it has more than {values_max} values")]
    Many {
        /// The bound.
        values_max: usize,
    },
    /// Not JSON, not UTF-8, cut short, or with a number beyond a double.
    #[error("it is not JSON: {0}")]
    Syntax(#[source] serde_json::Error),
    /// JSON, but no object.
    #[error("it is JSON, but not an object")]
    Object,
}

/// Reads one JSON object, whole and alone.
///
/// Of a key that is there twice the last value counts, and integers beyond 64 bits become the nearest double: so does
/// Go's `encoding/json`, which the runtime and the other plugins of a chain read the very same document with.
///
/// # Errors
/// It is over a bound, is not JSON, or is not an object.
pub fn read_object(bytes: &[u8], bounds: Bounds) -> Result<Map<String, Value>, DocumentError> {
    measure(bytes, bounds)?;
    match serde_json::from_slice(bytes).map_err(DocumentError::Syntax)? {
        Value::Object(fields) => Ok(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(DocumentError::Object)
        }
    }
}

/// One pass over the bytes. Exact for JSON; for anything else the parser says afterwards what is wrong.
fn measure(bytes: &[u8], bounds: Bounds) -> Result<(), DocumentError> {
    let Bounds { bytes_max, depth_max, values_max } = bounds;
    if bytes.len() > bytes_max {
        return Err(DocumentError::Long { bytes_max });
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(DocumentError::Empty);
    }
    let (mut depth, mut values) = (0_usize, 1_usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                values += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if depth > depth_max {
            return Err(DocumentError::Deep { depth_max });
        }
        if values > values_max {
            return Err(DocumentError::Many { values_max });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Bounds = Bounds { bytes_max: 60, depth_max: 3, values_max: 6 };

    #[test]
    fn each_bound_holds_at_its_edge() {
        assert!(read_object(br#"{"a":[[1,2]]}"#, SMALL).is_ok());
        assert!(matches!(read_object(br#"{"a":[[[]]]}"#, SMALL), Err(DocumentError::Deep { depth_max: 3 })));
        assert!(read_object(br#"{"a":[1,2,3,4]}"#, SMALL).is_ok());
        assert!(matches!(read_object(br#"{"a":[1,2,3,4,5]}"#, SMALL), Err(DocumentError::Many { values_max: 6 })));
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(52));
        assert!(read_object(long.as_bytes(), SMALL).is_ok());
        assert!(matches!(read_object(&[b' '; 61], SMALL), Err(DocumentError::Long { bytes_max: 60 })));
    }

    #[test]
    fn brackets_and_commas_in_strings_do_not_count() {
        assert!(read_object(br#"{"a\"[[[[":"{{{{,,,,,,,\\"}"#, SMALL).is_ok());
    }

    #[test]
    fn what_is_no_object_is_named() {
        for text in ["", " \n\t"] {
            assert!(matches!(read_object(text.as_bytes(), SMALL), Err(DocumentError::Empty)), "{text:?}");
        }
        for text in ["null", "true", "7", "\"x\"", "[]"] {
            assert!(matches!(read_object(text.as_bytes(), SMALL), Err(DocumentError::Object)), "{text}");
        }
        let broken: [&[u8]; 8] =
            [b"{", b"{]", b"{\"a\":1}x", b"{\"a\":1e999}", b"{\"\xff\":1}", b"\0", b"{\"a\":\"\0\"}", b"nul"];
        for bytes in broken {
            assert!(matches!(read_object(bytes, SMALL), Err(DocumentError::Syntax(_))), "{bytes:?}");
        }
    }

    #[test]
    fn the_last_of_a_key_counts_and_order_stays() {
        let fields = read_object(br#"{"z":1,"a":2,"z":3}"#, SMALL).unwrap();
        assert_eq!(Value::Object(fields).to_string(), r#"{"z":3,"a":2}"#);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(read_object(&bytes, LINE));
        }

        #[test]
        fn within_bounds_the_parser_never_meets_its_own_limit(text in "[\\[\\]{}\",:a0\\\\]{0,60}") {
            if let Err(DocumentError::Syntax(error)) = read_object(text.as_bytes(), LINE) {
                prop_assert!(!error.to_string().contains("recursion"), "{error}");
            }
        }
    }
}
