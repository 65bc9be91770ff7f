use std::cmp::Ordering;

use knhk_receipts::cbor::{Encoder, MapReader, Written, in_memory};
use knhk_receipts::{DecodeError, SignedCheckpoint};
use minicbor::Decoder;

use super::{FlagsState, MAX_NAME_BYTES, flags};
use crate::fields::{bounded, checkpoint, list, present, short};

/// The version of the format.
const MESSAGE_VERSION: u64 = 1;

/// The most states in a message; who has more sends several.
pub const MAX_STATES: usize = 256;

/// The most checkpoints in a message: one for each log that there may be.
const MAX_SEEN: usize = 32;

/// The largest document of a state, of a rollout or of the flags, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// The most reports in a message; what is over waits for the next.
pub const MAX_REPORTS: usize = 1024;

/// The largest report that is passed on, in bytes.
pub const MAX_REPORT_BYTES: usize = 64 * 1024;

/// The longest SPIFFE ID, in bytes (SPIFFE-ID, 2.3).
const MAX_IDENTITY_BYTES: usize = 2048;

/// The largest message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// What goes ahead of all receipts: the body of `POST /v1/replicate`, and of its answer, which has what the receiver knows
/// better.
///
/// | key | value |
/// |---|---|
/// | 0 | version of this format: 1 |
/// | 1 | region that sends it, text |
/// | 2 | states of rollouts, each name once: array, at most 256, see [`RolloutState`] |
/// | 3 | seen: the newest checkpoint that the sender holds of each log: array of bytes, at most 32 |
/// | 4 | optional: reports of the sender's filters on rollouts whose home is the receiver: array, at most 1,024, see [`Relayed`] |
/// | 5 | optional: flag definitions, see [`FlagsState`] |
///
/// By `seen` regions that were shown different histories of a log find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sends it.
    pub region: String,
    /// Rollouts, as it knows them.
    pub states: Vec<RolloutState>,
    /// Checkpoints, as it holds them.
    pub seen: Vec<SignedCheckpoint>,
    /// What its filters report.
    pub reports: Vec<Relayed>,
    /// Flag definitions, as it knows them, where the receiver may not.
    pub flags: Option<FlagsState>,
}

/// A filter's report, passed on to the home of the rollouts that it is about.
///
/// A map: 0 identity of the proxy (text; absent where none was proven), 1 nonce of its worker (16 bytes), 2 the report (bytes, at most
/// 64 KiB).
///
/// Counts in a report are cumulative for the worker, so one that is lost or comes twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// The SPIFFE ID that the proxy has proven to the region that passes it on.
    pub identity: Option<String>,
    /// Which worker it is.
    pub nonce: [u8; 16],
    /// The report, which only the service reads.
    pub report: Vec<u8>,
}

/// A rollout as the regions agree on it.
///
/// A map: 0 name (text), 1 home (text), 2 generation, 3 sequence, 4 aborted (bool), 5 document (bytes, at most 1 MiB; absent where
/// the rollout was deleted).
///
/// States of a rollout have a total order, and the larger one wins everywhere: the higher generation; within one, an abort over
/// none; then the home, by name, which decides between two regions that began a generation at once; then the home's sequence; then
/// the document's bytes. No clock is in it. The join of states is the larger one, so it is commutative, associative and
/// idempotent, and regions that were told the same states in any order agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutState {
    /// The rollout.
    pub name: String,
    /// The region that alone advances it.
    pub home: String,
    /// Grows with each `apply` of a version, `retry` and `adopt`.
    pub generation: u64,
    /// Counts the home's changes within a generation.
    pub sequence: u64,
    /// Whether any region aborted this generation.
    pub aborted: bool,
    /// The rollout's whole state, which only the service reads; none once it was deleted.
    pub document: Option<Vec<u8>>,
}

impl RolloutState {
    fn rank(&self) -> (u64, bool, &str, u64, Option<&[u8]>) {
        let document = self.document.as_deref();
        (self.generation, self.aborted, &self.home, self.sequence, document)
    }

    /// Which of two states of one rollout wins.
    pub fn order(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl Message {
    /// A region's message that says nothing yet.
    pub fn of(region: &str) -> Self {
        Self {
            region: region.to_owned(),
            states: Vec::new(),
            seen: Vec::new(),
            reports: Vec::new(),
            flags: None,
        }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let rollouts = self.states.iter().filter_map(|it| it.document.as_ref());
        let documents = rollouts
            .chain(self.flags.iter().map(|it| &it.document))
            .map(Vec::len);
        in_memory(documents.sum::<usize>() + 1024, |e| {
            e.map(4 + present(&[!self.reports.is_empty(), self.flags.is_some()]))?;
            e.u8(0)?.u64(MESSAGE_VERSION)?;
            e.u8(1)?.str(&self.region)?;
            e.u8(2)?.array(self.states.len() as u64)?;
            self.states.iter().try_for_each(|it| put_state(e, it))?;
            e.u8(3)?.array(self.seen.len() as u64)?;
            for seen in &self.seen {
                e.bytes(seen.as_bytes())?;
            }
            if !self.reports.is_empty() {
                e.u8(4)?.array(self.reports.len() as u64)?;
                self.reports.iter().try_for_each(|it| put_relayed(e, it))?;
            }
            if let Some(flags) = &self.flags {
                flags::put(e.u8(5)?, flags)?;
            }
            Ok(())
        })
    }

    /// Parses exactly what [`Message::to_bytes`] makes, at most [`MAX_MESSAGE_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        bounded(bytes, MAX_MESSAGE_BYTES)?;
        let mut decoder = Decoder::new(bytes);
        let mut map = MapReader::new(&mut decoder, "message")?;
        map.version(MESSAGE_VERSION)?;
        let missing = |field| DecodeError::Missing { field };
        let message = Self {
            region: map
                .optional_with(1, |d| short(d, "region", MAX_NAME_BYTES))?
                .ok_or(missing("region"))?
                .to_owned(),
            states: map
                .optional_with(2, |d| list(d, "states", MAX_STATES, state))?
                .ok_or(missing("states"))?,
            seen: map
                .optional_with(3, |d| list(d, "seen", MAX_SEEN, |d| checkpoint(d, "seen")))?
                .ok_or(missing("seen"))?,
            reports: map
                .optional_with(4, |d| list(d, "reports", MAX_REPORTS, relayed))?
                .unwrap_or_default(),
            flags: map.optional_with(5, flags::read)?,
        };
        map.finish()?;
        let mut names: Vec<_> = message.states.iter().map(|it| &it.name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(DecodeError::malformed("states", &"a name is there twice"));
        }
        if message.to_bytes() != bytes {
            return Err(DecodeError::NotDeterministic);
        }
        Ok(message)
    }
}

fn put_state(e: &mut Encoder<'_>, state: &RolloutState) -> Written {
    e.map(5 + u64::from(state.document.is_some()))?;
    e.u8(0)?.str(&state.name)?;
    e.u8(1)?.str(&state.home)?;
    e.u8(2)?.u64(state.generation)?;
    e.u8(3)?.u64(state.sequence)?;
    e.u8(4)?.bool(state.aborted)?;
    if let Some(document) = &state.document {
        e.u8(5)?.bytes(document)?;
    }
    Ok(())
}

fn put_relayed(e: &mut Encoder<'_>, relayed: &Relayed) -> Written {
    e.map(2 + u64::from(relayed.identity.is_some()))?;
    if let Some(identity) = &relayed.identity {
        e.u8(0)?.str(identity)?;
    }
    e.u8(1)?.bytes(&relayed.nonce)?;
    e.u8(2)?.bytes(&relayed.report)?;
    Ok(())
}

fn relayed(d: &mut Decoder<'_>) -> Result<Relayed, DecodeError> {
    let mut map = MapReader::new(d, "report")?;
    let identity = map.optional_with(0, |d| short(d, "identity", MAX_IDENTITY_BYTES))?;
    let relayed = Relayed {
        identity: identity.map(str::to_owned),
        nonce: map.array(1, "nonce")?,
        report: map.bytes(2, "report")?,
    };
    bounded(&relayed.report, MAX_REPORT_BYTES)?;
    map.finish()?;
    Ok(relayed)
}

fn state(d: &mut Decoder<'_>) -> Result<RolloutState, DecodeError> {
    let missing = |field| DecodeError::Missing { field };
    let mut map = MapReader::new(d, "state")?;
    let state = RolloutState {
        name: map
            .optional_with(0, |d| short(d, "name", MAX_NAME_BYTES))?
            .ok_or(missing("name"))?
            .to_owned(),
        home: map
            .optional_with(1, |d| short(d, "home", MAX_NAME_BYTES))?
            .ok_or(missing("home"))?
            .to_owned(),
        generation: map.number(2, "generation")?,
        sequence: map.number(3, "sequence")?,
        aborted: map.required(4, "aborted", Decoder::bool)?,
        document: map.optional_with(5, |d| {
            let bytes = d.bytes().map_err(|e| DecodeError::malformed("document", &e))?;
            bounded(bytes, MAX_DOCUMENT_BYTES)?;
            Ok(bytes.to_vec())
        })?,
    };
    map.finish()?;
    Ok(state)
}
