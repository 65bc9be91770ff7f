//! Answers on stdout: text for people, JSON for programs.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{Failure, Format, OutputArgs, failed};

/// Prints an answer in the form that was asked for.
pub(crate) fn print<T: Serialize>(
    format: OutputArgs,
    answer: &T,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let shown = match format.output {
        Format::Text => text(),
        Format::Json => serde_json::to_string_pretty(answer).map_err(failed)?,
    };
    line(&shown).map(drop)
}

/// Tells a person about something beside the answer, on stderr.
pub(crate) fn warn(text: &str) {
    eprintln!("knhk: warning: {}", crate::api::in_one_line(text));
}

/// Whether anybody still reads what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    There,
    /// It closed its end (`| head`), which is not an error.
    Gone,
}

/// Writes a line.
pub(crate) fn line(text: &str) -> Result<Reader, Failure> {
    line_to(&mut io::stdout().lock(), text)
}

/// Writes a line to `out`.
pub(crate) fn line_to(out: &mut impl Write, text: &str) -> Result<Reader, Failure> {
    reader(writeln!(out, "{text}"))
}

/// What a write says about the reader.
pub(crate) fn reader(written: io::Result<()>) -> Result<Reader, Failure> {
    match written {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(failed(error)),
    }
}

/// A table without borders, as `kubectl` prints them.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table.add_rows(rows);
    let lines: Vec<_> = table
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_begins_at_the_left_and_ends_with_its_last_letter() {
        let rows = [["a", "one"], ["bcd", "two"]].map(|row| row.map(str::to_owned));
        let shown = table(["ID", "WHAT"], rows);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines, ["ID   WHAT", "a    one", "bcd  two"]);
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let gone = Err(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(reader(gone).expect("no error"), Reader::Gone);
        assert!(reader(Err(io::Error::other("disk full"))).is_err());
    }
}
