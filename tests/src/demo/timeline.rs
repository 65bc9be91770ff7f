//! The demo's output: one line an event, with the time since the start.

use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::DemoError;

/// Characters of a bar that stands for 100 %.
const BAR: f64 = 30.0;

/// Writes the timeline.
#[derive(Debug)]
pub struct Timeline<W> {
    out: W,
    start: Instant,
}

impl<W: Write> Timeline<W> {
    /// The clock starts now.
    pub fn new(out: W) -> Self {
        Self {
            out,
            start: Instant::now(),
        }
    }

    /// The first line.
    pub fn title(&mut self, text: &str) -> Result<(), DemoError> {
        self.line(&format!("\n{text}\n"))
    }

    /// A new part of the story.
    pub fn chapter(&mut self, text: &str) -> Result<(), DemoError> {
        self.line(&format!("\n  {text}"))
    }

    /// An event.
    pub fn event(&mut self, text: &str) -> Result<(), DemoError> {
        let now = self.start.elapsed().as_secs_f64();
        self.line(&format!("{now:7.1} s  {text}"))
    }

    /// More about the last event.
    pub fn detail(&mut self, text: &str) -> Result<(), DemoError> {
        self.line(&format!("           {text}"))
    }

    /// A command as it was run.
    pub fn command(&mut self, text: &str) -> Result<(), DemoError> {
        self.event(&format!("$ {text}"))
    }

    fn line(&mut self, text: &str) -> Result<(), DemoError> {
        writeln!(self.out, "{text}")
            .and_then(|()| self.out.flush())
            .map_err(DemoError::Output)
    }
}

/// A bar for a share of 0 to 1. Any share above nothing shows.
pub(super) fn bar(share: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let full = (share * BAR).round() as usize;
    let shown = if share > 0.0 { full.max(1) } else { 0 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let width = BAR as usize;
    format!(
        "{}{}",
        "█".repeat(shown.min(width)),
        "·".repeat(width - shown.min(width))
    )
}

/// A share as a person writes it: two digits where it is small.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// Milliseconds with one digit.
pub(super) fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

/// A count with thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(percent(0.0123), "1.23 %");
        assert_eq!(ms(Duration::from_micros(2_345)), "2.3 ms");
    }

    #[test]
    fn a_bar_shows_any_share_above_nothing() {
        assert!(!bar(0.0).contains('█'));
        assert_eq!(bar(0.001).matches('█').count(), 1);
        assert!(!bar(1.0).contains('·'));
        assert_eq!(bar(0.5).chars().count(), bar(1.0).chars().count());
    }
}
