use std::time::Duration;

use super::error::LogError;
use crate::checkpoint::MAX_ORIGIN_BYTES;

/// The shortest time between flushes: each one with something new is a signature.
pub const MIN_FLUSH: Duration = Duration::from_millis(1);

/// The longest time between flushes.
pub const MAX_FLUSH: Duration = Duration::from_secs(60);

/// The time between flushes, unless set.
const DEFAULT_FLUSH: Duration = Duration::from_millis(250);

/// Uncovered entries that make a flush come at once, unless set.
pub const DEFAULT_FLUSH_ENTRIES: u64 = 65_536;

/// The longest region name, in bytes.
const MAX_REGION_BYTES: usize = 63;

/// What a log is set up with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The region: 1 to 63 of `a-z 0-9 . -`.
    pub region: String,
    /// The log's name, first line of its checkpoints: ends in `/` and the region, without spaces and `+`.
    pub origin: String,
    /// How often new entries are put under a checkpoint: [`MIN_FLUSH`] to [`MAX_FLUSH`].
    pub flush: Duration,
    /// A flush comes before that, once so many entries are new since the last one; at least 1.
    pub flush_entries: u64,
}

impl LogOptions {
    /// A region's log with the origin `knhk.dev/log/REGION`, flushed every 250 ms.
    pub fn new(region: impl Into<String>) -> Self {
        let region = region.into();
        Self {
            origin: format!("knhk.dev/log/{region}"),
            region,
            flush: DEFAULT_FLUSH,
            flush_entries: DEFAULT_FLUSH_ENTRIES,
        }
    }

    /// Whether a log can be set up with it; an error names the field.
    pub fn check(&self) -> Result<(), LogError> {
        let refuse = |field, given: &str, reason: String| {
            Err(LogError::Option {
                field,
                given: given.chars().take(80).flat_map(char::escape_debug).collect(),
                reason,
            })
        };
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if !(1..=MAX_REGION_BYTES).contains(&self.region.len()) || !self.region.chars().all(known) {
            let reason = format!("is not a region; use 1 to {MAX_REGION_BYTES} of a-z, 0-9, `-` and `.`");
            return refuse("region", &self.region, reason);
        }
        let visible = self.origin.chars().all(|c| c.is_ascii_graphic() && c != '+');
        let names_region = self
            .origin
            .rsplit_once('/')
            .is_some_and(|(_, last)| last == self.region);
        if self.origin.len() > MAX_ORIGIN_BYTES || !visible || !names_region {
            let reason = format!(
                "is not a log's name; use at most {MAX_ORIGIN_BYTES} visible ASCII characters without `+`, ending in `/{}`",
                self.region
            );
            return refuse("origin", &self.origin, reason);
        }
        if !(MIN_FLUSH..=MAX_FLUSH).contains(&self.flush) {
            let reason = format!("is out of range; use {MIN_FLUSH:?} to {MAX_FLUSH:?}");
            return refuse("flush", &format!("{:?}", self.flush), reason);
        }
        if self.flush_entries == 0 {
            return refuse("flush_entries", "0", "is out of range; use 1 or more".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_and_the_error_names_the_field() {
        let good = LogOptions::new("us-east-1.2");
        good.check().expect("good");
        let bad = [
            (
                "region",
                LogOptions {
                    region: String::new(),
                    ..good.clone()
                },
            ),
            ("region", LogOptions::new("US")),
            ("region", LogOptions::new("a/b")),
            ("region", LogOptions::new("a".repeat(64))),
            (
                "origin",
                LogOptions {
                    origin: "knhk.dev/log/other".to_owned(),
                    ..good.clone()
                },
            ),
            (
                "origin",
                LogOptions {
                    origin: "knhk dev/us-east-1.2".to_owned(),
                    ..good.clone()
                },
            ),
            (
                "origin",
                LogOptions {
                    origin: "knhk\n/us-east-1.2".to_owned(),
                    ..good.clone()
                },
            ),
            (
                "origin",
                LogOptions {
                    origin: format!("{}/us-east-1.2", "a".repeat(250)),
                    ..good.clone()
                },
            ),
            (
                "flush",
                LogOptions {
                    flush: Duration::ZERO,
                    ..good.clone()
                },
            ),
            (
                "flush",
                LogOptions {
                    flush: Duration::from_secs(61),
                    ..good.clone()
                },
            ),
            (
                "flush_entries",
                LogOptions {
                    flush_entries: 0,
                    ..good.clone()
                },
            ),
        ];
        for (wanted, options) in bad {
            let error = options.check().expect_err(wanted);
            assert!(
                matches!(error, LogError::Option { field, .. } if field == wanted),
                "{error}"
            );
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
