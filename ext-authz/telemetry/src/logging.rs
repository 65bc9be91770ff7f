//! The service's logs: one JSON object a line on standard error.

use std::io;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry};

/// The levels, from the quietest.
pub const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The longest filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 1024;

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// Neither a level nor a filter.
    #[error(
        "log filter {filter:?}: {reason}; use error, warn, info, debug, trace, or a list such as info,knhk=debug"
    )]
    Filter {
        /// What was given, clipped.
        filter: String,
        /// Which part is wrong.
        reason: String,
    },
    /// [`init`] was called a second time.
    #[error("logs are set up already")]
    Twice,
}

impl LoggingError {
    /// A stable name of the reason.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Filter { .. } => "filter",
            Self::Twice => "twice",
        }
    }
}

/// Sends the logs of this process to standard error.
///
/// `filter` is one of [`LEVELS`], which holds for KNHK while other crates are heard from `warn` up, or a list of
/// `TARGET=LEVEL` in the syntax of `tracing-subscriber`, of at most [`MAX_FILTER_BYTES`].
pub fn init(filter: &str) -> Result<(), LoggingError> {
    let subscriber = subscriber(parse(filter)?, io::stderr);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Twice)
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    let refused = |reason: String| {
        let filter = filter.chars().take(80).collect();
        Err(LoggingError::Filter { filter, reason })
    };
    if filter.len() > MAX_FILTER_BYTES {
        return refused(format!("longer than {MAX_FILTER_BYTES} bytes"));
    }
    if let Some(at) = LEVELS.iter().position(|level| *level == filter) {
        let others = LEVELS[at.min(1)];
        return Ok(EnvFilter::new(format!("{others},knhk={filter}")));
    }
    // A word alone would be taken for a target: a mistyped level would log everything of nothing.
    let levelled = |part: &str| part.contains('=') || LEVELS.contains(&part) || part == "off";
    if let Some(part) = filter.split(',').find(|part| !levelled(part)) {
        return refused(format!("{part:?} is no level"));
    }
    EnvFilter::try_new(filter).or_else(|error| refused(error.to_string()))
}

fn subscriber<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(writer);
    Registry::default().with(filter).with(lines)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no writer panics").clone()).expect("JSON is UTF-8")
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, log: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let filter = parse(filter).expect("a filter");
        tracing::subscriber::with_default(subscriber(filter, move || writer.clone()), log);
        lines.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_is_an_object_with_the_events_fields() {
        let lines = logged(
            "info",
            || tracing::info!(target: "knhk", rollout = "checkout", "rolled back"),
        );
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
        for part in [
            r#""level":"INFO""#,
            r#""message":"rolled back""#,
            r#""rollout":"checkout""#,
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }

    #[test]
    fn levels_hold_for_all_of_knhk_and_others_are_quieter() {
        let all = || {
            tracing::debug!(target: "knhk_receipts::log", "ours, debug");
            tracing::info!(target: "knhk", "ours, info");
            tracing::info!(target: "h2::codec", "theirs, info");
            tracing::warn!(target: "h2::codec", "theirs, warn");
        };
        assert_eq!(logged("debug", all).len(), 3);
        assert_eq!(logged("info", all).len(), 2);
        assert_eq!(logged("error", all).len(), 0);
    }

    #[test]
    fn a_list_sets_single_targets() {
        let both = || {
            tracing::debug!(target: "knhk_receipts::log", "the log's");
            tracing::debug!(target: "knhk", "the service's");
        };
        assert_eq!(logged("info,knhk_receipts=debug", both).len(), 1);
    }

    #[test]
    fn a_wrong_filter_is_refused_in_one_line() {
        for (filter, part) in [
            ("loud", r#""loud" is no level"#),
            ("", r#""" is no level"#),
            ("info,knhk=loud", "error parsing level filter"),
            (&"x".repeat(MAX_FILTER_BYTES + 1), "longer than 1024 bytes"),
        ] {
            let error = parse(filter).expect_err(filter);
            let message = error.to_string();
            assert_eq!(error.label(), "filter");
            assert!(
                message.contains(part) && message.lines().count() == 1 && message.len() < 300,
                "{message}"
            );
        }
    }
}
