//! Rollouts of several regions: each has a home that alone advances it, and the others follow. Flags have none: who changes them
//! last has his way.

use std::collections::BTreeMap;
use std::sync::Arc;

use knhk_promotion::{Command, Rollout};
use knhk_receipts::Payload;
use knhk_regions::wire::RolloutState;

use super::Driver;
use crate::app::ledger::ROLLOUT_ACTIONS;
use crate::app::rollouts::change::{Change, Next};
use crate::app::rollouts::{CommandError, Definitions, MAX_ROLLOUTS, Tombstone};

impl Driver {
    /// A rollout that is applied here for the first time.
    pub(super) fn born_here(&self, rollout: Rollout) -> Rollout {
        if self.parts.regions.is_none() {
            return rollout;
        }
        let ended = self.tombstones.get(rollout.name());
        let rollout = rollout.at_home(&self.parts.region);
        match ended {
            Some(tombstone) => rollout.behind_generation(tombstone.generation),
            None => rollout,
        }
    }

    /// Whether this region advances the rollout. Where there are no other regions it does.
    pub(super) fn is_home_of(&self, rollout: &Rollout) -> Result<(), CommandError> {
        match rollout.home() {
            Some(home) if home != self.parts.region => Err(CommandError::NotHome {
                name: rollout.name().to_owned(),
                home: home.to_owned(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Any region may abort. Everything else is the home's.
    pub(super) fn may(&self, rollout: &Rollout, command: &Command) -> Result<(), CommandError> {
        match command {
            Command::Abort => Ok(()),
            _ => self.is_home_of(rollout),
        }
    }

    pub(super) fn adopted(&self, by: String, before: &Rollout) -> Result<Change, CommandError> {
        let name = before.name().to_owned();
        if self.parts.regions.is_none() {
            return Err(CommandError::OneRegion(name));
        }
        let region = &self.parts.region;
        if self.is_home_of(before).is_ok() {
            let region = region.clone();
            return Err(CommandError::IsHome { name, region });
        }
        let (after, effects) = before.adopted(region, &by, self.parts.clock.now());
        self.changed(name, by, Some(before), after, effects)
    }

    /// What becomes of a rollout by another region's word. None where that is no news.
    pub(super) fn followed(&self, by: String, state: &RolloutState) -> Result<Option<Change>, CommandError> {
        let name = state.name.clone();
        let Some(regions) = &self.parts.regions else {
            return Err(CommandError::OneRegion(name));
        };
        if !regions.replication().is_news(state) {
            return Ok(None);
        }
        let before = self.rollouts.get(&name).map(Arc::clone);
        let Some(document) = &state.document else {
            return self.gone(name, by, before.as_deref(), state).map(Some);
        };
        let unreadable = |reason: String| CommandError::Unreadable {
            name: name.clone(),
            from: by.trim_start_matches("region:").to_owned(),
            reason,
        };
        let after: Rollout =
            serde_json::from_slice(document).map_err(|error| unreadable(error.to_string()))?;
        let said = RolloutState {
            document: state.document.clone(),
            ..regions.replication().state_of(&after)
        };
        if said != *state {
            return Err(unreadable(
                "it is a state of another rollout or generation".to_owned(),
            ));
        }
        if before.is_none() && self.rollouts.len() >= MAX_ROLLOUTS {
            return Err(CommandError::TooMany(name));
        }
        let after = match &before {
            Some(before) => after.continuing(before),
            None => after,
        };
        self.follows(name, by, before.as_deref(), after).map(Some)
    }

    fn follows(
        &self,
        name: String,
        by: String,
        before: Option<&Rollout>,
        after: Rollout,
    ) -> Result<Change, CommandError> {
        let after = Arc::new(after);
        let changes_policy = before.map(Rollout::rule) != Some(after.rule());
        let snapshot = changes_policy
            .then(|| self.snapshot_of_all(Some(&name), Some(&after)))
            .transpose()?;
        let entries: Vec<_> = after.history().last().cloned().into_iter().collect();
        let actions: Vec<_> = entries
            .iter()
            .map(|entry| self.action(&name, &by, before, &after, entry))
            .map(followed)
            .collect();
        Ok(Change {
            name,
            by,
            next: Next::Rollout(after),
            entries,
            actions,
            snapshot,
            tombstone: None,
        })
    }

    /// Another region has deleted it.
    fn gone(
        &self,
        name: String,
        by: String,
        before: Option<&Rollout>,
        state: &RolloutState,
    ) -> Result<Change, CommandError> {
        let tombstone = Tombstone {
            deleted_in: state.home.clone(),
            generation: state.generation,
        };
        let snapshot = before
            .map(|_| self.snapshot_of_all(Some(&name), None))
            .transpose()?;
        let action = self.deletion(&name, &by, before, Some(&tombstone));
        Ok(Change {
            name,
            by,
            next: Next::NoRollout,
            entries: Vec::new(),
            actions: vec![action],
            snapshot,
            tombstone: Some(tombstone),
        })
    }

    pub(super) fn tombstone_of(&self, rollout: &Rollout) -> Option<Tombstone> {
        self.parts.regions.as_ref().map(|_| Tombstone {
            deleted_in: self.parts.region.clone(),
            generation: rollout.generation().saturating_add(1),
        })
    }

    /// What is in force here goes to the other regions.
    pub(super) fn tell(&self, name: &str, after: Option<&Rollout>, tombstone: Option<&Tombstone>) {
        let Some(regions) = &self.parts.regions else {
            return;
        };
        let replication = regions.replication();
        if let Some(after) = after {
            replication.publish(replication.state_of(after));
        } else if let Some(tombstone) = tombstone {
            replication.publish(end(name, tombstone));
        }
    }

    /// The flags that are in force here go to the other regions.
    pub(super) fn tell_flags(&self, flags: &Definitions) {
        if let (Some(regions), Some(state)) = (&self.parts.regions, flags.state()) {
            regions.replication().publish_flags(state);
        }
    }

    /// What the log says. As it is recorded, so that a restart is no news to anybody.
    pub(super) fn tell_what_is_recorded(&self, rollouts: &BTreeMap<String, Rollout>) {
        self.tell_flags(&self.flags);
        for (name, rollout) in rollouts {
            self.tell(name, Some(rollout), None);
        }
        for (name, tombstone) in self.tombstones.iter() {
            if !rollouts.contains_key(name) {
                self.tell(name, None, Some(tombstone));
            }
        }
    }
}

/// Rollouts from before there were other regions are at home where they are.
pub(super) fn at_home(rollouts: BTreeMap<String, Rollout>, region: &str) -> BTreeMap<String, Rollout> {
    let at_home = |rollout: Rollout| match rollout.home() {
        Some(_) => rollout,
        None => rollout.at_home(region),
    };
    rollouts
        .into_iter()
        .map(|(name, rollout)| (name, at_home(rollout)))
        .collect()
}

fn end(name: &str, tombstone: &Tombstone) -> RolloutState {
    RolloutState {
        name: name.to_owned(),
        home: tombstone.deleted_in.clone(),
        generation: tombstone.generation,
        sequence: 0,
        aborted: false,
        document: None,
    }
}

/// The home has done it, and this region follows.
fn followed(action: Payload) -> Payload {
    match action {
        Payload::Action(mut action) => {
            action.what = format!("{ROLLOUT_ACTIONS}followed");
            Payload::Action(action)
        }
        other => other,
    }
}
