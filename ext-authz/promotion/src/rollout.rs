//! A rollout's whole state: what is asked for, where it stands, and how it came there.

use crate::counts::{Now, WindowCounts};
use crate::finding::Reading;
use crate::history::{HistoryEntry, MAX_HISTORY, What};
use crate::lived::Lived;
use crate::phase::Phase;
use crate::place::Place;
use crate::reporters::{Provenance, Weighed};
use crate::sequential::{Decides, Patience, Verdict};
use crate::spec::RolloutSpec;
use crate::step::Effect;
use crate::trials::{About, Reported, Trials};
use knhk_decision::spec::{StagingSpec, Weight};
use knhk_decision::{RolloutRule, StagingRule};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::sync::Arc;

/// The version of the state's form, in its field `format`.
///
/// Format 1 held the counts of a simpler analysis and is refused: a log that has it is continued by the version that wrote
/// it, or a new one begins (`knhk serve --new-log NAME`).
pub const STATE_FORMAT: u32 = 2;

/// A rollout. Serialised with serde it is its whole state: what comes back goes on exactly as the original would.
///
/// Cloning it is cheap: specification and history are shared until one of the clones changes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    pub(crate) format: Format,
    pub(crate) spec: Arc<RolloutSpec>,
    pub(crate) generation: u64,
    pub(crate) phase: Phase,
    pub(crate) place: Place,
    pub(crate) window: u64,
    pub(crate) lived: Lived,
    /// What is known against the canary; none where nobody has reported. A receipt does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trials: Option<Arc<Trials>>,
    /// The version that last succeeded; until one has, the stable of the first `apply`.
    pub(crate) succeeded: String,
    /// The region that advances it, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) home: Option<String>,
    /// Entries ever recorded; the history keeps the last of them.
    pub(crate) recorded: u64,
    pub(crate) history: Arc<Vec<HistoryEntry>>,
}

/// The first `apply` of a name: generation 1 at its first step.
///
/// A name that is used again after a delete starts at generation 1 again; its window is unlike any earlier one as long
/// as the wall clock did not go back meanwhile.
pub fn create(spec: RolloutSpec, by: &str, now: Now) -> (Rollout, Vec<Effect>) {
    let mut rollout = Rollout {
        format: Format,
        succeeded: spec.stable.clone(),
        spec: Arc::new(spec),
        generation: 1,
        phase: Phase::Progressing,
        place: Place::default(),
        window: now.wall_ms.max(1),
        lived: Lived::from(now),
        home: None,
        trials: None,
        recorded: 0,
        history: Arc::default(),
    };
    let why = format!("{} beside {}", rollout.spec.version, rollout.spec.stable);
    let entry = rollout.record(
        None,
        Act {
            who: by,
            what: What::Applied,
            why,
            readings: Vec::new(),
            reporters: None,
        },
        now,
    );
    (
        rollout,
        vec![Effect::PolicyChanged, Effect::Recorded(entry), Effect::Changed],
    )
}

/// A transition's author and reason.
pub(crate) struct Act<'a> {
    pub(crate) who: &'a str,
    pub(crate) what: What,
    pub(crate) why: String,
    pub(crate) readings: Vec<Reading>,
    pub(crate) reporters: Option<Provenance>,
}

impl Rollout {
    /// The rollout's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What was applied last.
    pub fn spec(&self) -> &RolloutSpec {
        &self.spec
    }

    /// Grows by one with each new version, each restart of the steps and each retry.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Which stage and step.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The observation window whose counts are evidence now.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Milliseconds that the present step has lived through while Progressing.
    pub fn lived_ms(&self) -> u64 {
        self.lived.ms()
    }

    /// The version that last succeeded; until one has, the stable of the first `apply`.
    pub fn last_succeeded(&self) -> &str {
        &self.succeeded
    }

    /// The last transitions, oldest first, at most [`MAX_HISTORY`].
    pub fn history(&self) -> &[HistoryEntry] {
        &self.history
    }

    /// The canary's share of the keys now.
    pub fn weight(&self) -> Weight {
        match self.phase {
            Phase::Failed(_) => Weight::ZERO,
            Phase::Succeeded => Weight::FULL,
            Phase::Progressing | Phase::Paused(_) => self.place.weight(&self.spec),
        }
    }

    /// Which requests go to the version whatever their key: where it is in staging.
    pub(crate) fn picked(&self) -> Option<&StagingSpec> {
        self.place
            .picked(&self.spec)
            .filter(|_| self.phase.is_under_way())
    }

    /// What the policy snapshot says about this rollout. A failed one keeps its rule, at weight 0: its requests go to
    /// stable, and are counted.
    pub fn rule(&self) -> RolloutRule {
        RolloutRule {
            name: self.spec.name.clone(),
            generation: self.generation,
            window: self.window,
            salt: self.spec.salt.clone(),
            r#match: self.spec.r#match.clone(),
            admit: self.spec.admit.clone(),
            staging: self.spec.staging().map(|(_, picked)| StagingRule {
                active: self.picked().is_some(),
                r#match: picked.clone(),
            }),
            key: self.spec.key.clone(),
            weight: self.weight(),
            stable: self.spec.stable.clone(),
            canary: self.spec.version.clone(),
            flags: self.spec.flags.clone(),
            record: self.spec.record,
            thresholds: self.spec.thresholds(),
            outcomes: self.spec.outcomes(),
        }
    }

    /// The same rollout at the first step of a stage, to see what it would decide there; none where it has no such stage.
    #[must_use]
    pub fn at_stage(mut self, name: &str) -> Option<Self> {
        let stage = self.spec.stages.iter().position(|stage| stage.name() == name)?;
        self.place = Place { stage, step: 0 };
        Some(self)
    }

    /// The state as JSON with the newest entry of its history: what a receipt holds as before and after, its size
    /// independent of age.
    pub fn to_receipt_json(&self) -> Vec<u8> {
        let newest = self.history.last().cloned().into_iter().collect();
        let bare = Self {
            history: Arc::new(newest),
            trials: None,
            ..self.clone()
        };
        // Writing to memory cannot fail, and every key here is text.
        serde_json::to_vec(&bare).unwrap_or_default()
    }

    /// The state of a receipt with the history that `earlier`, the state before it, had, and with what was known.
    #[must_use]
    pub fn continuing(mut self, earlier: &Self) -> Self {
        let own = self.history.first().map_or(u64::MAX, |entry| entry.seq);
        let before = earlier.history.iter().filter(|entry| entry.seq < own);
        let mut history: Vec<_> = before.chain(self.history.iter()).cloned().collect();
        history.drain(..history.len().saturating_sub(MAX_HISTORY));
        self.history = Arc::new(history);
        self.trials.clone_from(&earlier.trials);
        self.carry_on(earlier);
        self
    }

    /// Takes in what was reported on the present window.
    pub(crate) fn hear(&mut self, reports: &[Reported], evidence: &Weighed, now: Now) {
        if !self.has_canary() || evidence.counts().window != self.window {
            return;
        }
        if self.trials.is_none() && reports.is_empty() {
            return;
        }
        let (spec, decides) = (Arc::clone(&self.spec), self.decides());
        let trials = self
            .trials
            .get_or_insert_with(|| Arc::new(Trials::new(&spec, decides, now)));
        Arc::make_mut(trials).hear(reports, evidence);
    }

    /// What follows from what is known: counts are no evidence unless they are of the present window. There are no readings
    /// where there is no canary to judge.
    pub(crate) fn verdict(&self, evidence: &Weighed, now: Now) -> Verdict {
        if !self.has_canary() {
            return Verdict::of(Vec::new(), Patience::Left);
        }
        let patience = self.place.patience(&self.spec, self.lived_ms());
        let nothing = Weighed::from(WindowCounts::default());
        let evidence = if evidence.counts().window == self.window {
            evidence
        } else {
            &nothing
        };
        let about = match self.picked() {
            Some(_) => About::Staging,
            None => About::Canary,
        };
        let readings = match &self.trials {
            Some(trials) => trials.readings(&self.spec, about, evidence),
            None => Trials::new(&self.spec, self.decides(), now).readings(&self.spec, about, evidence),
        };
        Verdict::of(readings, patience)
    }

    /// Whether stable is there to be compared with: where the version has every request that it may get, nothing is, and those
    /// that staging picks are not like stable's.
    fn decides(&self) -> Decides {
        if self.weight() == Weight::FULL || self.picked().is_some() {
            Decides::SloAlone
        } else {
            Decides::SloAndStable
        }
    }

    /// What is known after the transition from `before` to here, which still knows what `before` did.
    ///
    /// A generation, and an analysis that is changed, begin with nothing. A step goes on with what is known, except where
    /// stable comes or goes as what to compare with; and so does a window that opens within a step, as `resume` does it.
    pub(crate) fn carry_on(&mut self, before: &Self) {
        let begins_anew = self.generation != before.generation || self.spec.analysis != before.spec.analysis;
        if begins_anew || !self.phase.is_under_way() {
            self.trials = None;
        }
        if self.window == before.window {
            return;
        }
        let decides = self.decides();
        // A step; also one behind staging, in which nothing was compared yet: no bet on the comparison is lost.
        let goes_on = self.place != before.place && decides == Decides::SloAndStable;
        let Some(trials) = &mut self.trials else { return };
        let trials = Arc::make_mut(trials);
        if goes_on {
            trials.step_begins(decides);
        } else {
            trials.starts_over(decides);
        }
    }

    /// Who reported the counts that [`Self::verdict`] judges.
    pub(crate) fn provenance<'a>(&self, evidence: &'a Weighed) -> Option<&'a Provenance> {
        let present = self.has_canary() && evidence.counts().window == self.window;
        evidence.provenance().filter(|_| present)
    }

    /// Whether the version has requests to be judged by.
    fn has_canary(&self) -> bool {
        self.phase.is_under_way() && (self.weight() > Weight::ZERO || self.picked().is_some())
    }

    /// The step begins: nothing lived, nothing counted.
    pub(crate) fn enter(&mut self, place: Place, now: Now) {
        self.place = place;
        self.lived.start(now);
        self.open_window(now);
    }

    /// Counts start anew under a number that no earlier window of this rollout had.
    pub(crate) fn open_window(&mut self, now: Now) {
        self.window = now.wall_ms.max(self.window.saturating_add(1));
    }

    /// Writes down what led from `before` to here.
    pub(crate) fn record(&mut self, before: Option<&Rollout>, act: Act<'_>, now: Now) -> HistoryEntry {
        self.recorded = self.recorded.saturating_add(1);
        let entry = HistoryEntry {
            seq: self.recorded,
            wall_ms: now.wall_ms,
            generation: self.generation,
            version: self.spec.version.clone(),
            who: act.who.to_owned(),
            what: act.what,
            why: act.why,
            phase_before: before.map(|before| before.phase),
            phase: self.phase,
            stage: self.place.stage_name(&self.spec).to_owned(),
            step: self.place.step.saturating_add(1),
            weight_before: before.map_or(Weight::ZERO, Rollout::weight),
            weight: self.weight(),
            judged_window: before.map_or(self.window, |before| before.window),
            window: self.window,
            readings: act.readings,
            reporters: act.reporters,
        };
        let history = Arc::make_mut(&mut self.history);
        if history.len() >= MAX_HISTORY {
            history.drain(..=history.len() - MAX_HISTORY);
        }
        history.push(entry.clone());
        entry
    }
}

/// [`STATE_FORMAT`], and nothing else: a state of another version is refused when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format;

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(STATE_FORMAT)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            STATE_FORMAT => Ok(Self),
            other => Err(de::Error::custom(format_args!(
                "a rollout's state of format {other} cannot be read, this version reads {STATE_FORMAT}: go on with the version that wrote it, or begin a new log"
            ))),
        }
    }
}
