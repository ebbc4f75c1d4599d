//! Attachment: container id and interface name, CNI's unit of work.

use std::fmt;

use thiserror::Error;

/// Longest container id, in bytes: with an interface name, `@` and a suffix it must fit a file name (NAME_MAX, 255).
/// The specification has no limit; runtimes use 64.
pub const CONTAINER_ID_LENGTH_MAX: usize = 200;
/// Longest interface name, in bytes: IFNAMSIZ without its NUL (linux/if.h).
pub const IFNAME_LENGTH_MAX: usize = 15;

/// A container and the name of an interface in it, both checked. Shown as `<container id>@<interface>`, which is
/// unambiguous, as a container id has no `@`, and safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    container_id: String,
    ifname: String,
}

/// Why there is no such attachment.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AttachmentError {
    /// The container id.
    #[error(
        "CNI_CONTAINERID {said:?} is not a container id: 1 to {CONTAINER_ID_LENGTH_MAX} of a-z, A-Z, 0-9, '_', '.' and '-', \
         beginning with a letter or digit"
    )]
    ContainerId {
        /// What was said, cut at 80 characters.
        said: String,
    },
    /// The interface name.
    #[error(
        "CNI_IFNAME {said:?} is not an interface name: 1 to {IFNAME_LENGTH_MAX} printable ASCII characters without '/', ':' and \
         space, and neither \".\" nor \"..\""
    )]
    Ifname {
        /// What was said, cut at 80 characters.
        said: String,
    },
}

impl Attachment {
    /// Checks and joins the two.
    ///
    /// # Errors
    /// The container id is not of `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$` (CNI 1.1.0, section 2) or over
    /// [`CONTAINER_ID_LENGTH_MAX`]; the interface name is one that Linux refuses (`dev_valid_name`), or not ASCII.
    pub fn new(container_id: &str, ifname: &str) -> Result<Self, AttachmentError> {
        let said = |text: &str| text.chars().take(80).collect();
        if !is_name(container_id) || container_id.len() > CONTAINER_ID_LENGTH_MAX {
            return Err(AttachmentError::ContainerId { said: said(container_id) });
        }
        let forbidden = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'/' | b':');
        let out_of_range = ifname.is_empty() || ifname.len() > IFNAME_LENGTH_MAX;
        if out_of_range || matches!(ifname, "." | "..") || ifname.bytes().any(forbidden) {
            return Err(AttachmentError::Ifname { said: said(ifname) });
        }
        Ok(Self { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
    }

    /// The container's id (`CNI_CONTAINERID`).
    #[must_use]
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// The interface's name in the sandbox (`CNI_IFNAME`).
    #[must_use]
    pub fn ifname(&self) -> &str {
        &self.ifname
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.container_id, self.ifname)
    }
}

/// Whether `text` is of `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`: the rule for container ids and for network names.
pub(crate) fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric()) && text.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn good_ones_are_shown_in_one_piece() {
        let longest = "c".repeat(CONTAINER_ID_LENGTH_MAX);
        for (container_id, ifname) in [("a", "b"), ("0_.-Z", "eth0"), (&longest, "fifteen-letters"), ("x", "...")] {
            let attachment = Attachment::new(container_id, ifname).unwrap();
            assert_eq!(attachment.to_string(), format!("{container_id}@{ifname}"));
        }
    }

    #[test]
    fn cn_09_bad_container_ids_are_refused_by_name() {
        let too_long = "c".repeat(CONTAINER_ID_LENGTH_MAX + 1);
        for bad in ["", ".", "..", "-a", "_a", ".a", "a/b", "../a", "a b", "a@b", "a\n", "a\0", "ä", &too_long] {
            let error = Attachment::new(bad, "eth0").unwrap_err();
            assert!(error.to_string().starts_with("CNI_CONTAINERID "), "{error}");
        }
    }

    #[test]
    fn cn_09_bad_interface_names_are_refused_by_name() {
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\u{a0}b", "a\0", "ä", "sixteen-letters-"] {
            let error = Attachment::new("c", bad).unwrap_err();
            assert!(error.to_string().starts_with("CNI_IFNAME "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_file_name_and_no_other_attachments(
            a in ".{0,20}", b in ".{0,20}", c in "[a-z@.]{1,6}", d in "[a-z@.]{1,6}",
        ) {
            for (container_id, ifname) in [(&a, &b), (&c, &d)] {
                let Ok(attachment) = Attachment::new(container_id, ifname) else { continue };
                let name = attachment.to_string();
                prop_assert!(name.len() < 240 && !name.contains('/') && !name.contains('\0') && !name.starts_with('.'));
                prop_assert_eq!(name.split_once('@'), Some((container_id.as_str(), ifname.as_str())));
            }
        }
    }
}
