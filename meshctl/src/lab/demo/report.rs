//! What the demo prints: sections and ticks for people, JSON lines for programs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::interrupt;
use crate::screen::{self, Format};

/// Checks, as they come.
pub(super) struct Report {
    format: Format,
    checks: u32,
    failed: u32,
}

impl Report {
    /// Nothing checked yet.
    pub(super) const fn new(format: Format) -> Self {
        Self { format, checks: 0, failed: 0 }
    }

    /// Begins a part of the story; programs do not see it.
    ///
    /// # Errors
    /// stdout is gone.
    pub(super) fn section(&self, title: &str) -> anyhow::Result<()> {
        match self.format {
            Format::Json => Ok(()),
            Format::Text => screen::out(&format!("\n{}", screen::strong(title))),
        }
    }

    /// One check with its figures.
    ///
    /// # Errors
    /// stdout is gone, or somebody wants us to end.
    pub(super) fn check(&mut self, name: &str, ok: bool, observed: &Value) -> anyhow::Result<()> {
        interrupt::check()?;
        self.checks += 1;
        self.failed += u32::from(!ok);
        match self.format {
            Format::Json => {
                screen::out(&serde_json::to_string(&json!({ "name": name, "ok": ok, "observed": observed }))?)
            }
            Format::Text => {
                let tick = if ok { screen::good("√") } else { screen::bad("×") };
                let figures = figures(observed);
                let below = if figures.is_empty() { String::new() } else { format!("\n      {figures}") };
                screen::out(&format!("  {tick} {name}{below}"))
            }
        }
    }

    /// Whether every check held.
    pub(super) const fn is_well(&self) -> bool {
        self.checks > 0 && self.failed == 0
    }

    /// The last words.
    ///
    /// # Errors
    /// stdout is gone.
    pub(super) fn end(&self, took: Duration) -> anyhow::Result<()> {
        if self.format == Format::Json {
            return Ok(());
        }
        let verdict = if self.is_well() {
            screen::good(&format!("All {} checks hold.", self.checks))
        } else {
            screen::bad(&format!("{} of {} checks do NOT hold.", self.failed, self.checks))
        };
        screen::out(&format!(
            "\n{verdict} It took {:.0} s.\n\nTry it yourself:\n  meshctl lab up\n  meshctl status\n  meshctl lab exec demo/client -- ping -c3 10.244.2.2\n  meshctl peers\n  meshctl lab down",
            took.as_secs_f64()
        ))
    }
}

/// Figures in one line: `sent 3, received 3`.
fn figures(observed: &Value) -> String {
    let Some(fields) = observed.as_object() else { return observed.to_string() };
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number
            .as_f64()
            .filter(|f| f.fract() != 0.0)
            .map_or_else(|| number.to_string(), |fraction| format!("{fraction:.2}")),
        Value::Array(all) => all
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(" and "),
        Value::Null | Value::Bool(_) | Value::Object(_) => value.to_string(),
    };
    let told = fields.iter().filter(|(_, value)| !value.is_null());
    told.map(|(name, value)| format!("{} {}", words(name), plain(value))).collect::<Vec<_>>().join(", ")
}

/// `rttMaxMicros` as people write it: `rtt max micros`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let observed = json!({ "rttMaxMicros": 5, "seconds": 0.456, "names": ["a", "b"], "error": null });
        let mut told: Vec<String> = figures(&observed).split(", ").map(str::to_owned).collect();
        told.sort();
        assert_eq!(told, ["names a and b", "rtt max micros 5", "seconds 0.46"]);
    }

    #[test]
    fn one_failed_check_is_enough_and_none_at_all_is_no_success() {
        let mut report = Report::new(Format::Json);
        assert!(!report.is_well());
        report.check("one", true, &json!({})).unwrap();
        assert!(report.is_well());
        report.check("two", false, &json!({})).unwrap();
        report.check("three", true, &json!({})).unwrap();
        assert!(!report.is_well());
    }
}
