//! What filters report on rollouts: evidence here, and for a rollout that is at home in another region there.

use std::sync::Arc;

use knhk_proto::v1::{Observed, Report};
use knhk_regions::wire::Relayed;
use prost::Message;

use super::App;
use super::evidence::{Ignored, Origin};

/// Observations in one report: two windows of two variants for each rollout of the largest policy.
pub(crate) const MAX_OBSERVED: usize = 4 * 1024;

impl App {
    /// Takes in what a filter of this region reports; `is_told` says of which rollouts the filter knows.
    pub(crate) fn observed(&self, from: &Origin, rows: &[Observed], is_told: impl Fn(&str) -> bool) {
        for rows in by_window(rows) {
            let Some(first) = rows.first() else { continue };
            let taken = if is_told(&first.rollout) {
                self.pass_on(from, rows);
                self.evidence.observe(from, rows)
            } else {
                Err(Ignored::NotItsRollout)
            };
            self.count_ignored(rows, taken);
        }
    }

    /// Takes in what filters of other regions report on rollouts that are at home here.
    pub(crate) fn relayed(&self, reports: Vec<Relayed>) {
        for relayed in reports {
            let Ok(report) = Report::decode(relayed.report.as_slice()) else {
                continue;
            };
            if report.observed.len() > MAX_OBSERVED {
                continue;
            }
            let from = Origin {
                identity: relayed.identity.map(Arc::from),
                nonce: relayed.nonce,
            };
            for rows in by_window(&report.observed) {
                let Some(first) = rows.first() else { continue };
                let taken = match self.home_elsewhere(&first.rollout) {
                    None => self.evidence.observe(&from, rows),
                    Some(_) => Err(Ignored::NotItsRollout),
                };
                self.count_ignored(rows, taken);
            }
        }
    }

    fn pass_on(&self, from: &Origin, rows: &[Observed]) {
        let Some(regions) = &self.regions else { return };
        let Some(home) = rows.first().and_then(|row| self.home_elsewhere(&row.rollout)) else {
            return;
        };
        let report = Report {
            observed: rows.to_vec(),
            ..Report::default()
        };
        let relayed = Relayed {
            identity: from.identity.as_deref().map(str::to_owned),
            nonce: from.nonce,
            report: report.encode_to_vec(),
        };
        regions.relay(&home, relayed);
    }

    /// The region that advances a rollout, where that is not this one.
    fn home_elsewhere(&self, rollout: &str) -> Option<String> {
        let rollout = self.rollouts.get(rollout).ok()?;
        let home = rollout.home()?;
        (home != self.region).then(|| home.to_owned())
    }

    fn count_ignored(&self, rows: &[Observed], taken: Result<(), Ignored>) {
        if let Err(ignored) = taken {
            for _ in rows {
                self.metrics.observation_ignored(ignored.into());
            }
        }
    }
}

/// The rows of one rollout's window stand together.
fn by_window(rows: &[Observed]) -> impl Iterator<Item = &[Observed]> {
    rows.chunk_by(|one, next| one.rollout == next.rollout && one.window == next.window)
}
