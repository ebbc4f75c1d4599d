//! Figures as they come: a line each, with the goal where there is one.

use serde_json::json;

/// Prints figures, and counts missed goals.
pub struct Report {
    json: bool,
    missed: Vec<String>,
}

impl Report {
    pub fn new(json: bool) -> Self {
        Self { json, missed: Vec::new() }
    }

    /// A figure, and the most it should be.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str, at_most: Option<f64>) {
        let ok = at_most.is_none_or(|goal| value <= goal);
        if !ok {
            self.missed.push(name.to_owned());
        }
        if self.json {
            println!("{}", json!({ "name": name, "value": value, "unit": unit, "atMost": at_most, "ok": ok }));
            return;
        }
        let goal = at_most.map_or(String::new(), |goal| format!("   goal <= {goal}"));
        let miss = if ok { "" } else { "   MISSED" };
        println!("{name:<58} {value:>9.2} {unit}{goal}{miss}");
    }

    /// The median, the 99th percentile and the worst of many.
    pub fn spread(&mut self, name: &str, mut values: Vec<f64>, unit: &str, (p50, p99): (Option<f64>, Option<f64>)) {
        values.sort_by(f64::total_cmp);
        self.figure(&format!("{name}: p50 of {}", values.len()), percentile(&values, 50), unit, p50);
        self.figure(&format!("{name}: p99"), percentile(&values, 99), unit, p99);
        self.figure(&format!("{name}: worst"), percentile(&values, 100), unit, None);
    }

    pub fn end(&self) {
        if !self.json {
            let verdict = match self.missed.as_slice() {
                [] => "every goal is met".to_owned(),
                missed => format!("missed: {}", missed.join(", ")),
            };
            println!("{verdict}");
        }
    }
}

/// Nearest rank of sorted values.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}
