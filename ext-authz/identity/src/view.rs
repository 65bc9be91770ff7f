//! What is held and how the source is, as one value that others see whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::source::SourceError;

/// What is held and how the source is.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The last good snapshot. It may have ended.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// Whether the Workload API took the last one back.
    pub(crate) withdrawn: bool,
    /// Whether a stream is open that gave something.
    pub(crate) connected: bool,
    /// Streams that were opened, or tried to be.
    pub(crate) attempts: u64,
    /// Failures since the last good update.
    pub(crate) failures: u32,
    /// The newest failure, until something is received again.
    pub(crate) last_error: Option<SourceError>,
    /// Snapshots that took the place of another one.
    pub(crate) rotations: u64,
    /// Refused updates by label.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// The newest refusal, until a good update.
    pub(crate) last_refusal: Option<Refusal>,
}

impl View {
    pub(crate) fn take(&mut self, snapshot: Snapshot) {
        if self.snapshot.is_some() {
            self.rotations += 1;
        }
        self.snapshot = Some(Arc::new(snapshot));
        self.withdrawn = false;
    }

    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        *self.refused.entry(refusal.label()).or_default() += 1;
        self.last_refusal = Some(refusal.clone());
    }

    /// Says whether there was something to take back.
    pub(crate) fn withdraw(&mut self) -> bool {
        let held = self.snapshot.take().is_some();
        self.withdrawn |= held;
        held
    }

    /// The snapshot, while it is valid.
    pub(crate) fn valid(&self, unix: Duration) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref().filter(|held| {
            let validity = held.validity();
            !validity.is_over(unix) && unix >= validity.not_before
        })
    }
}
