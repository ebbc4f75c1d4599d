//! Label selection: which workloads a policy is about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The labels of a namespace or a workload.
pub type Labels = BTreeMap<String, String>;

/// Labels that must all be there with exactly these values, and expressions that must all hold; an empty selector
/// selects everything. There are no patterns: a star or a dot in a value is that character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Key and exact value.
    pub match_labels: Labels,
    /// `matchExpressions`, as in Kubernetes' LabelSelector.
    pub expressions: Vec<Expression>,
}

/// One requirement of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// The label is there with one of these values.
    In(String, BTreeSet<String>),
    /// The label is absent or has none of these values.
    NotIn(String, BTreeSet<String>),
    /// The label is there.
    Exists(String),
    /// The label is absent.
    DoesNotExist(String),
}

impl Selector {
    /// Whether it asks for nothing, and so selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.expressions.is_empty()
    }

    /// Whether these labels are selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|expression| expression.holds(labels))
    }
}

impl fmt::Display for Selector {
    /// One text for one selector, whatever the order it was written in: `"a"="b","c" In ["x"]`; `*` for the
    /// empty one. Everything is quoted, so that two selectors never share a text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("*");
        }
        let labels = self.match_labels.iter().map(|(key, value)| format!("{key:?}={value:?}"));
        let mut expressions: Vec<String> = self.expressions.iter().map(ToString::to_string).collect();
        expressions.sort_unstable();
        expressions.dedup();
        f.write_str(&labels.chain(expressions).collect::<Vec<_>>().join(","))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(key, values) => write!(f, "{key:?} In {:?}", values.iter().collect::<Vec<_>>()),
            Self::NotIn(key, values) => write!(f, "{key:?} NotIn {:?}", values.iter().collect::<Vec<_>>()),
            Self::Exists(key) => write!(f, "{key:?} Exists"),
            Self::DoesNotExist(key) => write!(f, "{key:?} DoesNotExist"),
        }
    }
}

impl Expression {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        assert!(Selector::default().matches(&labels(&[])));
        assert!(Selector::default().matches(&labels(&[("a", "b")])));
    }

    #[test]
    fn id_17_values_match_exactly_and_are_no_patterns() {
        for value in ["a.b", "*", "[ab]", "%2f", "a*"] {
            let selector = Selector { match_labels: labels(&[("app", value)]), ..Selector::default() };
            assert!(selector.matches(&labels(&[("app", value)])));
            for other in ["axb", "a", "b", "/", "ab", ""] {
                assert!(!selector.matches(&labels(&[("app", other)])), "{value} matched {other}");
            }
        }
    }

    #[test]
    fn each_expression_holds_as_kubernetes_says() {
        let values = || BTreeSet::from(["x".to_owned(), "y".to_owned()]);
        let (here, other, absent) = (labels(&[("k", "x")]), labels(&[("k", "z")]), labels(&[]));
        for (expression, expected) in [
            (Expression::In("k".into(), values()), [true, false, false]),
            (Expression::NotIn("k".into(), values()), [false, true, true]),
            (Expression::Exists("k".into()), [true, true, false]),
            (Expression::DoesNotExist("k".into()), [false, false, true]),
        ] {
            let found = [&here, &other, &absent].map(|l| expression.holds(l));
            assert_eq!(found, expected, "{expression:?}");
        }
    }
}
