//! The service's logs: one JSON object a line on standard error.

use std::io;
use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry};

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What an operator has to act on.
    Error,
    /// What may lead there.
    Warn,
    /// What changed: starts, stops, rollouts, rollbacks. The default.
    #[default]
    Info,
    /// What happened to single streams and reports.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// Every level, from the quietest.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The name that [`FromStr`] takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl FromStr for Level {
    type Err = LoggingError;

    fn from_str(name: &str) -> Result<Self, LoggingError> {
        Self::ALL
            .into_iter()
            .find(|level| level.as_str() == name)
            .ok_or_else(|| LoggingError::Level(name.to_owned()))
    }
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// A name that is not a level.
    #[error("log level {0:?}: no such level; use error, warn, info, debug or trace")]
    Level(String),
    /// [`init`] was called a second time.
    #[error("logs are set up already")]
    Twice,
}

impl LoggingError {
    /// A stable name of the reason.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Level(_) => "level",
            Self::Twice => "twice",
        }
    }
}

/// Sends the logs of this process to standard error. Other crates than KNHK's own are heard from `warn` up.
pub fn init(level: Level) -> Result<(), LoggingError> {
    tracing::subscriber::set_global_default(subscriber(level, io::stderr)).map_err(|_| LoggingError::Twice)
}

fn subscriber<W>(level: Level, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let others = level.min(Level::Warn).as_str();
    let filter = EnvFilter::new(format!("{others},knhk={}", level.as_str()));
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

    fn logged(level: Level, log: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(level, move || writer.clone()), log);
        lines.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_is_an_object_with_the_events_fields() {
        let lines = logged(
            Level::Info,
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
        assert_eq!(logged(Level::Debug, all).len(), 3);
        assert_eq!(logged(Level::Info, all).len(), 2);
        assert_eq!(logged(Level::Error, all).len(), 0);
    }

    #[test]
    fn a_level_has_one_name_and_a_wrong_one_is_told_the_choice() {
        for level in Level::ALL {
            assert_eq!(level.as_str().parse::<Level>().expect("its own name"), level);
        }
        let error = "loud".parse::<Level>().expect_err("no such level");
        assert_eq!(
            error.to_string(),
            r#"log level "loud": no such level; use error, warn, info, debug or trace"#
        );
        assert_eq!(error.label(), "level");
    }
}
