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
    line(&shown)
}

/// Writes a line. A reader that closed its end (`| head`) is not an error.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(failed),
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
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}
