//! Numbers as people read them.

use crate::tally::Tally;
use knhk_decision::spec::{StagingSpec, ValueMatch};
use std::fmt;

/// A fraction as a percentage with at most four places: `0.5 %`, `33.3333 %`.
pub(crate) struct Share(pub(crate) f64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = format!("{:.4}", self.0 * 100.0);
        write!(f, "{} %", number.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Milliseconds as a duration to the second, or to the millisecond below one: `1m 30s`.
pub(crate) struct Time(pub(crate) u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.0 < 1_000 {
            self.0
        } else {
            self.0 / 1_000 * 1_000
        };
        humantime::format_duration(std::time::Duration::from_millis(shown)).fmt(f)
    }
}

/// Which requests staging picks: `all with header x-tester present, flag beta=on`.
pub(crate) struct Picked<'a>(pub(crate) &'a StagingSpec);

impl fmt::Display for Picked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = self.0.headers.iter().map(|header| {
            let name = &header.name;
            match &header.value {
                ValueMatch::Exact(value) => format!("header {name}: {value}"),
                ValueMatch::Prefix(value) => format!("header {name}: {value}..."),
                ValueMatch::Present(true) => format!("header {name}"),
                ValueMatch::Present(false) => format!("no header {name}"),
            }
        });
        let peers = (!self.0.peers.is_empty()).then(|| format!("caller {}", self.0.peers.join(" or ")));
        let flags = self
            .0
            .flags
            .iter()
            .map(|(flag, variant)| format!("flag {flag}={variant}"));
        let all: Vec<String> = headers.chain(peers).chain(flags).collect();
        write!(f, "all with {}", all.join(", "))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} bad ({})",
            self.bad,
            self.requests,
            Share(self.share())
        )
    }
}
