use knhk_receipts::cbor::{MapReader, in_memory};
use knhk_receipts::checkpoint::MAX_CHECKPOINT_BYTES;
use knhk_receipts::{DecodeError, SignedCheckpoint};
use minicbor::Decoder;

use super::{Ack, KeyId, MAX_ACK_BYTES};
use crate::fields::{bounded, checkpoint, present, short};

/// The version of the format.
const ANSWER_VERSION: u64 = 1;

/// The longest label of a refusal, in bytes.
const MAX_LABEL_BYTES: usize = 32;

/// The longest text of a refusal, in bytes.
pub const MAX_DETAIL_BYTES: usize = 512;

/// The largest answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = MAX_CHECKPOINT_BYTES + MAX_ACK_BYTES + MAX_DETAIL_BYTES + 256;

/// What a region says to a [`super::Batch`]: what it holds of that log now, and why it refused where it did.
///
/// | key | value |
/// |---|---|
/// | 0 | version of this format: 1 |
/// | 1 | held: how many entries it durably holds, each one proven by a checkpoint of a trusted key |
/// | 2 | trusted: ID of the key whose checkpoints it takes now, 32 bytes |
/// | 3 | optional: the newest checkpoint that it holds all entries of, bytes |
/// | 4 | optional: its acknowledgement of that checkpoint, bytes, see [`Ack`] |
/// | 5 | optional: label of the refusal, text |
/// | 6 | with 5: one line for a person, text |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How many entries it durably holds. The next batch begins here.
    pub held: u64,
    /// The key whose checkpoints it takes now.
    pub trusted: KeyId,
    /// The newest checkpoint that it holds all entries of.
    pub checkpoint: Option<SignedCheckpoint>,
    /// Its acknowledgement of that checkpoint.
    pub ack: Option<Ack>,
    /// Why it took nothing.
    pub refused: Option<Refused>,
}

/// A refusal as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Stable and of low cardinality.
    pub label: String,
    /// One line for a person.
    pub detail: String,
}

impl Answer {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let optional = [self.checkpoint.is_some(), self.ack.is_some()];
        let refused = 2 * u64::from(self.refused.is_some());
        in_memory(1024, |e| {
            e.map(3 + present(&optional) + refused)?;
            e.u8(0)?.u64(ANSWER_VERSION)?;
            e.u8(1)?.u64(self.held)?;
            e.u8(2)?.bytes(&self.trusted)?;
            if let Some(checkpoint) = &self.checkpoint {
                e.u8(3)?.bytes(checkpoint.as_bytes())?;
            }
            if let Some(ack) = &self.ack {
                e.u8(4)?.bytes(&ack.to_bytes())?;
            }
            if let Some(refused) = &self.refused {
                e.u8(5)?.str(&refused.label)?;
                e.u8(6)?.str(&refused.detail)?;
            }
            Ok(())
        })
    }

    /// Parses exactly what [`Answer::to_bytes`] makes, at most [`MAX_ANSWER_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        bounded(bytes, MAX_ANSWER_BYTES)?;
        let mut decoder = Decoder::new(bytes);
        let mut map = MapReader::new(&mut decoder, "answer")?;
        map.version(ANSWER_VERSION)?;
        let held = map.number(1, "held")?;
        let trusted = map.array(2, "trusted")?;
        let checkpoint = map.optional_with(3, |d| checkpoint(d, "checkpoint"))?;
        let ack = map.optional_with(4, |d| {
            let bytes = d.bytes().map_err(|e| DecodeError::malformed("ack", &e))?;
            Ack::from_bytes(bytes)
        })?;
        let label = map.optional_with(5, |d| short(d, "refused", MAX_LABEL_BYTES))?;
        let detail = map.optional_with(6, |d| short(d, "detail", MAX_DETAIL_BYTES))?;
        map.finish()?;
        let refused = match (label, detail) {
            (None, None) => None,
            (Some(label), Some(detail)) => Some(Refused {
                label: label.to_owned(),
                detail: detail.to_owned(),
            }),
            (None, Some(_)) => return Err(DecodeError::Missing { field: "refused" }),
            (Some(_), None) => return Err(DecodeError::Missing { field: "detail" }),
        };
        let answer = Self {
            held,
            trusted,
            checkpoint,
            ack,
            refused,
        };
        if answer.to_bytes() != bytes {
            return Err(DecodeError::NotDeterministic);
        }
        Ok(answer)
    }
}

impl Refused {
    /// A label, and a text that is cut to what is sent and keeps to one line.
    pub fn new(label: &str, detail: &str) -> Self {
        let mut one_line: String = detail
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        while one_line.len() > MAX_DETAIL_BYTES {
            one_line.pop();
        }
        Self {
            label: label
                .chars()
                .take(MAX_LABEL_BYTES)
                .filter(char::is_ascii)
                .collect(),
            detail: one_line,
        }
    }
}
