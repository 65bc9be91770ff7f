//! A rollout in several regions: which one advances it, and which of two states of it is the later one.

use crate::counts::Now;
use crate::history::What;
use crate::phase::{FailReason, Phase};
use crate::rollout::{Act, Rollout};
use crate::step::{Effect, transition};

impl Rollout {
    /// The region that alone advances it: where it was first applied, or adopted since. None where there is one region only.
    pub fn home(&self) -> Option<&str> {
        self.home.as_deref()
    }

    /// The same rollout with a region as its home.
    #[must_use]
    pub fn at_home(mut self, region: &str) -> Self {
        self.home = Some(region.to_owned());
        self
    }

    /// The same rollout in a generation behind this one: of a name that was used before, and whose end other regions know.
    #[must_use]
    pub fn behind_generation(mut self, generation: u64) -> Self {
        self.generation = self.generation.max(generation.saturating_add(1));
        self
    }

    /// Grows with each transition, in the region where that happens. Within a generation the home's states are in its order.
    pub fn sequence(&self) -> u64 {
        self.recorded
    }

    /// Whether an operator gave this generation up.
    pub fn is_aborted(&self) -> bool {
        self.phase == Phase::Failed(FailReason::Aborted)
    }

    /// Another region becomes its home, in a new generation: at the same place, where a step begins anew, since the evidence was
    /// with the home before. What has failed or succeeded stays so.
    pub fn adopted(&self, region: &str, by: &str, now: Now) -> (Self, Vec<Effect>) {
        let mut next = self.clone().at_home(region);
        next.generation = self.generation.saturating_add(1);
        if next.phase.is_under_way() {
            next.enter(next.place, now);
        }
        let before = self.home().unwrap_or("nowhere");
        let act = Act {
            who: by,
            what: What::Adopted,
            why: format!("its home is {region} now, and was {before}"),
            readings: Vec::new(),
            reporters: None,
        };
        let effects = transition(self, &mut next, act, now);
        (next, effects)
    }
}
