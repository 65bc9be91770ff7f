use knhk_receipts::DecodeError;
use knhk_receipts::cbor::{Encoder, MapReader, Written};
use minicbor::Decoder;

use super::{MAX_DOCUMENT_BYTES, MAX_NAME_BYTES};
use crate::fields::{bounded, short};

/// Feature flags as the regions agree on them: all definitions at once, as they were applied.
///
/// A map: 0 revision, 1 region that made it (text), 2 document (bytes, at most 1 MiB).
///
/// States have a total order, that of these fields, and the largest wins everywhere: the higher revision; of two that were made at
/// once in two regions, that of the region whose name is the larger; then the document's bytes. Who applies definitions gives them
/// the revision behind the one in force there, so they come behind all that he could see. No clock is in it. The join of states is
/// the larger one, as it is with [`super::RolloutState`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlagsState {
    /// Grows with each change, wherever it is made.
    pub revision: u64,
    /// Where it was made.
    pub region: String,
    /// The definitions, which only the service reads.
    pub document: Vec<u8>,
}

pub(super) fn put(e: &mut Encoder<'_>, state: &FlagsState) -> Written {
    e.map(3)?;
    e.u8(0)?.u64(state.revision)?;
    e.u8(1)?.str(&state.region)?;
    e.u8(2)?.bytes(&state.document)?;
    Ok(())
}

pub(super) fn read(d: &mut Decoder<'_>) -> Result<FlagsState, DecodeError> {
    let mut map = MapReader::new(d, "flags")?;
    let state = FlagsState {
        revision: map.number(0, "revision")?,
        region: map
            .optional_with(1, |d| short(d, "region", MAX_NAME_BYTES))?
            .ok_or(DecodeError::Missing { field: "region" })?
            .to_owned(),
        document: map.bytes(2, "document")?,
    };
    bounded(&state.document, MAX_DOCUMENT_BYTES)?;
    map.finish()?;
    Ok(state)
}
