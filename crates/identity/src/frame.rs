//! Length-prefixed bytes: the one way in which fields are joined before they are signed or derived from.
//!
//! A field is its length as four bytes, most significant first, and then its bytes; so no two lists of fields have
//! the same form, and what one field says can never be read as part of another.

/// Appends fields.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// With the first field, by convention the name of what this is for.
    pub(crate) fn new(label: &str) -> Self {
        Self::default().field(label.as_bytes())
    }

    /// One more field. Fields are far under 4 GiB: everything that is signed is bounded where it is parsed.
    pub(crate) fn field(mut self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// One more field: a number as eight bytes, most significant first.
    pub(crate) fn number(self, number: u64) -> Self {
        self.field(&number.to_be_bytes())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Takes fields apart again; `None` where the bytes end early or a field is not what was asked for.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn field(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (field, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.field()?).ok()
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.field()?.try_into().ok()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_come_back_as_they_went_in(fields in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..6)) {
            let bytes = fields.iter().fold(Writer::default(), |w, f| w.field(f)).into_bytes();
            let mut reader = Reader::new(&bytes);
            for field in &fields {
                prop_assert_eq!(reader.field(), Some(field.as_slice()));
            }
            prop_assert!(reader.is_empty());
            prop_assert_eq!(reader.field(), None);
        }

        #[test]
        fn hostile_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while reader.field().is_some() {}
        }
    }

    #[test]
    fn moving_a_byte_between_fields_changes_the_whole() {
        let one = Writer::new("l").field(b"ab").field(b"c").into_bytes();
        let other = Writer::new("l").field(b"a").field(b"bc").into_bytes();
        assert_ne!(one, other);
    }
}
