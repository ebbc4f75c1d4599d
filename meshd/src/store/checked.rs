//! State files that are believed only whole: a header with kind, version, owner, length and checksum, then the body.
//!
//! ```text
//! weft-state <kind> <version> <owner> <length of body> <SHA-256 of the header up to here and of the body>\n
//! <body>
//! ```

use std::path::Path;

use ring::digest::{Context, SHA256};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::atomic::atomic_write;
use super::error::{Damage, StoreError};
use super::private::{Privacy, read_bounded};

/// Longest body, in bytes: an epoch floor with every entry it may have, twice over.
pub(crate) const BODY_LENGTH_MAX: usize = 64 * 1024 * 1024;
const HEADER_LENGTH_MAX: usize = 512;
const MAGIC: &str = "weft-state";

/// A kind of state file.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// Its name in the header: no white space.
    pub(crate) name: &'static str,
    /// The version of its body that this program writes and reads.
    pub(crate) version: u32,
    /// What a person does when a file of this kind cannot be used, as half a sentence.
    pub(crate) remedy: &'static str,
}

/// Writes a state file, 0600. `owner` is who it is for (a node's name or UID): no white space.
///
/// # Errors
/// As [`atomic_write`]; a body or owner over its limit.
pub(crate) fn write_checked(path: &Path, kind: Kind, owner: &str, body: &[u8]) -> Result<(), StoreError> {
    let too_large = Damage::Huge { found: body.len() as u64, max: BODY_LENGTH_MAX as u64 };
    if body.len() > BODY_LENGTH_MAX {
        return Err(StoreError::damaged(path, too_large, "it was not written"));
    }
    if owner.is_empty() || owner.len() > 256 || !owner.bytes().all(|b| b.is_ascii_graphic()) {
        let (name, reason) = (owner.chars().take(80).collect(), "an owner is 1 to 256 printable ASCII characters");
        return Err(StoreError::Name { path: path.to_owned(), name, reason });
    }
    let header = format!("{MAGIC} {} {} {owner} {}", kind.name, kind.version, body.len());
    // room for all at once: growing would leave copies of secrets behind
    let mut bytes = Zeroizing::new(Vec::with_capacity(header.len() + 66 + body.len()));
    bytes.extend_from_slice(header.as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(checksum(header.as_bytes(), body).as_bytes());
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    atomic_write(path, &bytes, 0o600)
}

/// Reads a state file; `None` where there is none.
///
/// # Errors
/// Anything but the very bytes that [`write_checked`] wrote for this kind, version and owner; a file that others can
/// read or write; one that cannot be read.
pub(crate) fn read_checked(path: &Path, kind: Kind, owner: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let max = (BODY_LENGTH_MAX + HEADER_LENGTH_MAX) as u64;
    let Some(bytes) = read_bounded(path, max, Privacy::Secret, kind.remedy)? else {
        return Ok(None);
    };
    let body = check(path, kind, owner, &bytes)?;
    Ok(Some(Zeroizing::new(body.to_vec())))
}

/// Writes a value as JSON into a state file.
///
/// # Errors
/// As [`write_checked`]; a value that is not JSON.
pub(crate) fn save<T: Serialize + ?Sized>(path: &Path, kind: Kind, owner: &str, value: &T) -> Result<(), StoreError> {
    let body = serde_json::to_vec(value).map_err(|cause| StoreError::Encode { path: path.to_owned(), cause })?;
    write_checked(path, kind, owner, &body)
}

/// Reads a value that [`save`] wrote; `None` where there is no file.
///
/// # Errors
/// As [`read_checked`]; a body that is not such a value.
pub(crate) fn load<T: DeserializeOwned>(path: &Path, kind: Kind, owner: &str) -> Result<Option<T>, StoreError> {
    let Some(body) = read_checked(path, kind, owner)? else {
        return Ok(None);
    };
    let unreadable = |error: serde_json::Error| {
        StoreError::damaged(path, Damage::Content { reason: error.to_string() }, kind.remedy)
    };
    serde_json::from_slice(&body).map(Some).map_err(unreadable)
}

/// The body, where everything about it is right. The checksum is judged before anything in the header is believed;
/// only what it holds for can say "another version" or "another owner".
fn check<'a>(path: &Path, kind: Kind, owner: &str, bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let damaged = |damage| StoreError::damaged(path, damage, kind.remedy);
    if bytes.is_empty() {
        return Err(damaged(Damage::Empty));
    }
    let end = bytes.iter().take(HEADER_LENGTH_MAX).position(|b| *b == b'\n').ok_or(damaged(Damage::Header))?;
    let (line, rest) = bytes.split_at(end);
    let body = rest.get(1..).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_not_text| damaged(Damage::Header))?;
    let (header, stated_sum) = line.rsplit_once(' ').ok_or(damaged(Damage::Header))?;
    let mut fields = header.split(' ');
    let (Some(MAGIC), Some(name), Some(version), Some(found_owner), Some(length), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(damaged(Damage::Header));
    };
    let stated: u64 = length.parse().map_err(|_not_a_number| damaged(Damage::Header))?;
    if stated != body.len() as u64 {
        return Err(damaged(Damage::Length { found: body.len() as u64, stated }));
    }
    if stated_sum != checksum(header.as_bytes(), body) {
        return Err(damaged(Damage::Checksum));
    }
    if name != kind.name {
        return Err(damaged(Damage::Kind { found: name.to_owned() }));
    }
    if version != kind.version.to_string() {
        let (path, found) = (path.to_owned(), version.to_owned());
        return Err(StoreError::Version { path, found, supported: kind.version, remedy: kind.remedy });
    }
    if found_owner != owner {
        let (found, expected) = (found_owner.to_owned(), owner.to_owned());
        return Err(StoreError::Foreign { path: path.to_owned(), found, expected, remedy: kind.remedy });
    }
    Ok(body)
}

fn checksum(header: &[u8], body: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut context = Context::new(&SHA256);
    context.update(header);
    context.update(b"\n");
    context.update(body);
    context.finish().as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
