//! `CNI_ARGS`: extra arguments of a call as `KEY=value;KEY=value`, in whatever order they come.

use std::collections::BTreeMap;

use thiserror::Error;

/// Which pod it is for, as the container runtimes of Kubernetes say it. Other keys are for other plugins.
const KNOWN: [&str; 5] = [IGNORE_UNKNOWN, NAMESPACE, NAME, UID, "K8S_POD_INFRA_CONTAINER_ID"];
const IGNORE_UNKNOWN: &str = "IgnoreUnknown";
const NAMESPACE: &str = "K8S_POD_NAMESPACE";
const NAME: &str = "K8S_POD_NAME";
const UID: &str = "K8S_POD_UID";

/// The arguments by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args(BTreeMap<String, String>);

/// The pod of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRef<'a> {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: &'a str,
    /// `K8S_POD_NAME`.
    pub name: &'a str,
    /// `K8S_POD_UID`; older runtimes do not say it.
    pub uid: Option<&'a str>,
}

/// What is wrong with `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ArgsError {
    /// No `=`, or nothing before it.
    #[error("CNI_ARGS has {pair:?}, which is not KEY=value")]
    Pair {
        /// The pair, cut at 80 characters.
        pair: String,
    },
    /// Not true and not false.
    #[error("CNI_ARGS has IgnoreUnknown={value:?}: 1, true, 0 or false is expected")]
    IgnoreUnknown {
        /// What it is, cut at 80 characters.
        value: String,
    },
    /// A key that we do not know, and no leave to ignore it.
    #[error("CNI_ARGS has {key}, which this plugin does not know: remove it, or add IgnoreUnknown=1")]
    Unknown {
        /// The key, cut at 80 characters.
        key: String,
    },
}

impl Args {
    /// Reads `KEY=value` pairs separated by `;`. Of a key that is there twice the last value counts; a pair may be empty.
    ///
    /// # Errors
    /// A pair that is none, or a key that we do not know without `IgnoreUnknown=1` (CNI `CONVENTIONS.md`).
    pub fn read(text: &str) -> Result<Self, ArgsError> {
        let mut pairs = BTreeMap::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => pairs.insert(key.to_owned(), value.to_owned()),
                _ => return Err(ArgsError::Pair { pair: cut(pair) }),
            };
        }
        Self(pairs).checked()
    }

    /// Takes pairs that have been read before.
    ///
    /// # Errors
    /// As [`Args::read`].
    pub(crate) fn of_pairs(pairs: BTreeMap<String, String>) -> Result<Self, ArgsError> {
        Self(pairs).checked()
    }

    fn checked(self) -> Result<Self, ArgsError> {
        let ignore = match self.0.get(IGNORE_UNKNOWN).map(String::as_str) {
            None => false,
            Some(value) if value == "1" || value.eq_ignore_ascii_case("true") => true,
            Some(value) if value == "0" || value.eq_ignore_ascii_case("false") => false,
            Some(value) => return Err(ArgsError::IgnoreUnknown { value: cut(value) }),
        };
        match self.0.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            Some(key) if !ignore => Err(ArgsError::Unknown { key: cut(key) }),
            _ => Ok(self),
        }
    }

    /// One argument.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All of them, by key.
    #[must_use]
    pub fn pairs(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The pod that the call is for; `None` where the runtime does not say, as podman for a container of its own.
    #[must_use]
    pub fn pod(&self) -> Option<PodRef<'_>> {
        let said = |key| self.value(key).filter(|value| !value.is_empty());
        Some(PodRef { namespace: said(NAMESPACE)?, name: said(NAME)?, uid: said(UID) })
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pod_is_found_in_any_order_of_keys() {
        let mut pairs =
            ["IgnoreUnknown=1", "K8S_POD_NAMESPACE=shop", "K8S_POD_NAME=web-0", "K8S_POD_UID=u-1", "OTHER=x=y"];
        for _ in 0..pairs.len() {
            pairs.rotate_left(1);
            let args = Args::read(&pairs.join(";")).unwrap();
            assert_eq!(args.pod(), Some(PodRef { namespace: "shop", name: "web-0", uid: Some("u-1") }));
            assert_eq!(args.value("OTHER"), Some("x=y"));
        }
    }

    #[test]
    fn no_pod_is_no_error() {
        assert_eq!(Args::read("").unwrap().pod(), None);
        assert_eq!(Args::read(";;").unwrap(), Args::default());
        assert_eq!(Args::read("K8S_POD_NAMESPACE=a;K8S_POD_NAME=").unwrap().pod(), None);
    }

    #[test]
    fn the_last_of_a_key_counts() {
        assert_eq!(Args::read("K8S_POD_NAME=a;K8S_POD_NAME=b").unwrap().value("K8S_POD_NAME"), Some("b"));
    }

    #[test]
    fn unknown_keys_need_leave() {
        assert_eq!(Args::read("FOO=BAR"), Err(ArgsError::Unknown { key: "FOO".to_owned() }));
        assert_eq!(Args::read("FOO=BAR;IgnoreUnknown=false"), Err(ArgsError::Unknown { key: "FOO".to_owned() }));
        for leave in ["1", "true", "TRUE"] {
            assert!(Args::read(&format!("FOO=BAR;IgnoreUnknown={leave}")).is_ok());
        }
    }

    #[test]
    fn cn_09_malformed_pairs_are_refused_by_name() {
        for bad in ["x", "=x", "K8S_POD_NAME=a;x", "IgnoreUnknown=maybe", "IgnoreUnknown=", "FOO=BAR"] {
            let error = Args::read(bad).unwrap_err();
            assert!(error.to_string().starts_with("CNI_ARGS "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn fz_04_nothing_panics_and_what_is_read_reads_again(text in ".{0,100}") {
            if let Ok(args) = Args::read(&text) {
                prop_assert_eq!(Args::of_pairs(args.pairs().clone()), Ok(args));
            }
        }
    }
}
