//! Whether a node's newest report is believed, as a condition on its MeshNode.

use jiff::Timestamp;

use crate::cluster::api::Condition;

/// The condition's type.
const BELIEVED: &str = "Believed";
/// Longest reason, in characters.
const LENGTH_MAX: usize = 1_000;

/// What the status of a MeshNode says of its report; `refusal` is why that is not taken.
pub(super) fn condition(refusal: Option<&str>, now: Timestamp) -> Condition {
    match refusal {
        None => Condition::new(BELIEVED, true, ("Signed", String::new()), now),
        Some(why) => {
            let why: String = why.chars().take(LENGTH_MAX).collect();
            Condition::new(BELIEVED, false, ("Refused", format!("{why}; what was known before stays")), now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_refusal_is_told_with_its_reason_and_since_when() {
        let good = condition(None, at(60));
        assert_eq!((good.status.as_str(), good.message.as_str()), ("True", ""));
        let bad = condition(Some(&"no ".repeat(1_000)), at(120)).after(std::slice::from_ref(&good));
        assert_eq!((bad.status.as_str(), bad.last_transition_time.as_str()), ("False", "1970-01-01T00:02:00Z"));
        assert!(bad.message.starts_with("no no") && bad.message.ends_with("stays") && bad.message.len() < 1_100);
        let worse = condition(Some("still"), at(180)).after(std::slice::from_ref(&bad));
        assert_eq!(worse.last_transition_time, "1970-01-01T00:02:00Z", "it is bad since then");
    }
}
