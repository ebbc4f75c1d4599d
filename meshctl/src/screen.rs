//! Writes for people (and pipes): results to stdout, progress and errors to stderr, colour only on a terminal.

use std::io::{self, Write as _};

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
    fn a_table_is_as_wide_as_its_widest_cells() {
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()], vec!["e".into()]];
        assert_eq!(table(&rows), "a    bb\nccc  d\ne");
        assert_eq!(table(&[]), "");
    }
}
