//! The canary's outcomes in order, as `Ordered.run` of a report has them: `gate.proto` says what each bit is.
//!
//! The filter writes with each request that the canary finished, so writing allocates nothing once a buffer has grown;
//! the service reads what may come from anybody, so reading checks all of it.

/// Outcomes in one report. Those beyond it are counted only.
pub const MAX_ORDERED: usize = 64;
/// Groups of keys: the low four bits of a key's hash.
pub const GROUPS: u8 = 16;
/// Outcomes read from headers that one rollout may have: a bit for each.
pub const MAX_OUTCOMES: usize = 8;

const FAILED: u64 = 1 << 4;
const TALLY_FOLLOWS: u64 = 1 << 5;
const OVER_SHIFT: u32 = 6;
const OVER_MASK: u64 = 0xf;
const OUTCOMES_SHIFT: u32 = 10;
const OUTCOMES_MASK: u64 = 0xff;
const CODE_BITS: u32 = 18;

/// A finished request of the canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its key's group, below [`GROUPS`].
    pub group: u8,
    /// Whether it was an error.
    pub failed: bool,
    /// How many of the rule's ascending thresholds it was slower than.
    pub over: u8,
    /// A bit for each outcome that the rule reads from a header: whether it was bad.
    pub outcomes: u8,
}

/// Finished requests, and how many of them were bad in each measure: errors, over each threshold, bad by each outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub requests: u64,
    /// As many as [`Measures::count`].
    pub bad: Vec<u64>,
}

/// An outcome of the canary, and what stable finished since the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Stable's.
    pub stable: Tally,
    /// The canary's.
    pub canary: Outcome,
}

/// What a rule counts beside requests and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measures {
    /// Latency thresholds.
    pub thresholds: usize,
    /// Outcomes read from headers.
    pub outcomes: usize,
}

/// Why a run cannot be what a filter wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It ends in the middle of an outcome.
    Cut,
    /// A code says what the rule has not.
    Code,
    /// More bad requests than requests, or a tally of none.
    Tally,
    /// More than [`MAX_ORDERED`] outcomes.
    TooMany,
}

impl Measures {
    /// Errors, thresholds and outcomes.
    pub fn count(self) -> usize {
        1 + self.thresholds + self.outcomes
    }

    /// No requests.
    pub fn nothing(self) -> Tally {
        Tally {
            requests: 0,
            bad: vec![0; self.count()],
        }
    }

    /// The measures that an outcome was bad in, in order.
    pub fn bad(self, outcome: Outcome) -> impl Iterator<Item = bool> {
        let over = (0..self.thresholds).map(move |threshold| threshold < usize::from(outcome.over));
        let outcomes = (0..self.outcomes).map(move |bit| outcome.outcomes >> bit & 1 == 1);
        std::iter::once(outcome.failed).chain(over).chain(outcomes)
    }
}

/// A run in the making. Taking it keeps its memory.
#[derive(Debug, Default)]
pub struct Run {
    values: Vec<u64>,
    outcomes: usize,
}

impl Run {
    /// Empty.
    pub const fn new() -> Self {
        Self {
            values: Vec::new(),
            outcomes: 0,
        }
    }

    /// Whether no further outcome has room.
    pub fn is_full(&self) -> bool {
        self.outcomes >= MAX_ORDERED
    }

    /// Whether it has no outcome.
    pub fn is_empty(&self) -> bool {
        self.outcomes == 0
    }

    /// Adds an outcome behind `requests` of stable, of which `bad` were bad in each measure. A full run takes none.
    pub fn push(&mut self, outcome: Outcome, requests: u64, bad: impl Iterator<Item = u64>) {
        if self.is_full() {
            return;
        }
        self.outcomes += 1;
        let tally = if requests > 0 { TALLY_FOLLOWS } else { 0 };
        self.values.push(outcome.code() | tally);
        if requests == 0 {
            return;
        }
        let head = self.values.len();
        self.values.push(requests << 1);
        self.values.extend(bad);
        let any = self.values.iter().skip(head + 1).any(|bad| *bad > 0);
        if any {
            if let Some(head) = self.values.get_mut(head) {
                *head |= 1;
            }
        } else {
            self.values.truncate(head + 1);
        }
    }

    /// Takes the values, and begins anew.
    pub fn take(&mut self) -> Vec<u64> {
        let values = self.values.clone();
        self.clear();
        values
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.values.clear();
        self.outcomes = 0;
    }
}

/// Reads a run of a rule with these measures.
pub fn read(run: &[u64], measures: Measures) -> Result<Vec<Block>, Unreadable> {
    let mut rest = run.iter().copied();
    let mut blocks = Vec::new();
    while let Some(code) = rest.next() {
        if blocks.len() >= MAX_ORDERED {
            return Err(Unreadable::TooMany);
        }
        let canary = Outcome::read(code, measures)?;
        let stable = if code & TALLY_FOLLOWS == 0 {
            measures.nothing()
        } else {
            Tally::read(&mut rest, measures)?
        };
        blocks.push(Block { stable, canary });
    }
    Ok(blocks)
}

impl Outcome {
    fn code(self) -> u64 {
        let failed = if self.failed { FAILED } else { 0 };
        u64::from(self.group % GROUPS)
            | failed
            | (u64::from(self.over) & OVER_MASK) << OVER_SHIFT
            | u64::from(self.outcomes) << OUTCOMES_SHIFT
    }

    fn read(code: u64, measures: Measures) -> Result<Self, Unreadable> {
        let byte = |bits: u64| u8::try_from(bits).map_err(|_| Unreadable::Code);
        let outcome = Self {
            group: byte(code % u64::from(GROUPS))?,
            failed: code & FAILED != 0,
            over: byte(code >> OVER_SHIFT & OVER_MASK)?,
            outcomes: byte(code >> OUTCOMES_SHIFT & OUTCOMES_MASK)?,
        };
        let fits = code >> CODE_BITS == 0
            && usize::from(outcome.over) <= measures.thresholds
            && u32::from(outcome.outcomes) >> measures.outcomes.min(MAX_OUTCOMES) == 0;
        if fits { Ok(outcome) } else { Err(Unreadable::Code) }
    }
}

impl Tally {
    fn read(rest: &mut impl Iterator<Item = u64>, measures: Measures) -> Result<Self, Unreadable> {
        let head = rest.next().ok_or(Unreadable::Cut)?;
        let mut tally = measures.nothing();
        tally.requests = head >> 1;
        if head & 1 == 1 {
            for bad in &mut tally.bad {
                *bad = rest.next().ok_or(Unreadable::Cut)?;
            }
        }
        if tally.requests > 0 && tally.is_possible() {
            Ok(tally)
        } else {
            Err(Unreadable::Tally)
        }
    }

    /// Whether it has at most as many bad requests as requests.
    pub fn is_possible(&self) -> bool {
        self.bad.iter().all(|bad| *bad <= self.requests)
    }

    /// What this has more than `less`, if that is no more in anything.
    #[must_use]
    pub fn minus(&self, less: &Self) -> Option<Self> {
        let bad = self.bad.iter().zip(&less.bad);
        Some(Self {
            requests: self.requests.checked_sub(less.requests)?,
            bad: bad
                .map(|(more, less)| more.checked_sub(*less))
                .collect::<Option<_>>()?,
        })
    }

    /// Adds `more`.
    pub fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        for (bad, more) in self.bad.iter_mut().zip(&more.bad) {
            *bad = bad.saturating_add(*more);
        }
    }

    /// Adds one.
    pub fn count(&mut self, outcome: Outcome, measures: Measures) {
        self.requests = self.requests.saturating_add(1);
        for (bad, is_bad) in self.bad.iter_mut().zip(measures.bad(outcome)) {
            *bad = bad.saturating_add(u64::from(is_bad));
        }
    }
}

#[cfg(test)]
mod tests;
