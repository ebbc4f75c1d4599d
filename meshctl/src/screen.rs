//! Writes for people (and pipes): results to stdout, progress and errors to stderr, colour only on a terminal.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON document, or JSON lines where the help says so.
    Json,
}

/// Writes one line (or several) of the result.
///
/// # Errors
/// When stdout does not take it.
pub(crate) fn out(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{text}").context("cannot write to stdout")
}

/// Writes a value as indented JSON.
///
/// # Errors
/// When stdout does not take it.
pub(crate) fn out_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    out(&serde_json::to_string_pretty(value).context("cannot turn the result into JSON")?)
}

/// Writes a progress line or an error. There is nobody to tell when stderr is gone.
pub(crate) fn note(text: &str) {
    let _gone = writeln!(io::stderr().lock(), "{text}");
}

/// Whether stdout is a terminal that wants colour (<https://no-color.org>).
fn is_colourful() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Text in a colour (SGR parameter of ECMA-48), on a terminal that wants it.
fn coloured(text: &str, parameter: u8) -> String {
    if is_colourful() { format!("\x1b[{parameter}m{text}\x1b[0m") } else { text.to_owned() }
}

/// What is well: green.
pub(crate) fn good(text: &str) -> String {
    coloured(text, 32)
}

/// What is not: red.
pub(crate) fn bad(text: &str) -> String {
    coloured(text, 31)
}

/// A title: bold.
pub(crate) fn strong(text: &str) -> String {
    coloured(text, 1)
}

/// A length of time as people say it: `42 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// An amount of data as people say it: `512 B`, `1.5 KiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut unit = "B";
    let (mut whole, mut tenths) = (bytes, 0);
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if whole < 1024 {
            break;
        }
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit = next;
    }
    if unit == "B" { format!("{whole} B") } else { format!("{whole}.{tenths} {unit}") }
}

/// Whether the reader of our output went away, as `head` does: no reason to complain.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// Rows in aligned columns, two spaces apart; the last column is not padded.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let pad = width.saturating_sub(cell.chars().count()) + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', pad));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_said_as_people_say_them() {
        assert_eq!([0, 59, 60, 3599, 3600].map(seconds), ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min"]);
        assert_eq!([0, 1023, 1024, 1536, 1 << 30].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 GiB"]);
    }

    #[test]
    fn a_table_is_as_wide_as_its_widest_cells() {
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()], vec!["e".into()]];
        assert_eq!(table(&rows), "a    bb\nccc  d\ne");
        assert_eq!(table(&[]), "");
    }
}
