//! What peers have acknowledged, over restarts.
//!
//! `regions/acks` is a map of deterministic CBOR, and behind it the CRC-32 (IEEE) of its bytes, little-endian: 0 version (1), 1 the
//! newest acknowledgement of each peer: array of bytes, see [`Ack`]. It is replaced whole. Losing it costs sending again.

use std::io;

use knhk_receipts::DecodeError;
use knhk_receipts::cbor::{MapReader, in_memory};
use knhk_receipts::storage::{Storage, read_whole, replace};
use minicbor::Decoder;

use crate::acks::REGIONS_DIR;
use crate::config::MAX_PEERS;
use crate::fields::list;
use crate::wire::{Ack, MAX_ACK_BYTES};

const ACKS_PATH: &str = "regions/acks";

const ACKS_VERSION: u64 = 1;

/// The newest acknowledgement of each peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedAcks {
    acks: Vec<Ack>,
}

impl SavedAcks {
    pub(crate) fn new(acks: Vec<Ack>) -> Self {
        Self { acks }
    }

    /// What was saved. Nothing where there is no file, or where it is not as it was written: then everything is sent again.
    pub fn load(storage: &dyn Storage) -> io::Result<Self> {
        let bytes = match read_whole(storage, ACKS_PATH, MAX_PEERS * (MAX_ACK_BYTES + 8)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(e),
        };
        Ok(Self::from_bytes(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, path = ACKS_PATH, "peers' acknowledgements cannot be read; they are asked again");
            Self::default()
        }))
    }

    /// Makes it durable.
    pub fn save(&self, storage: &dyn Storage) -> io::Result<()> {
        storage.create_dir(REGIONS_DIR)?;
        replace(storage, ACKS_PATH, &self.to_bytes())
    }

    /// The newest acknowledgement of a peer.
    pub fn get(&self, peer: &str) -> Option<&Ack> {
        self.acks.iter().find(|ack| ack.peer == peer)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = in_memory(1024, |e| {
            e.map(2)?.u8(0)?.u64(ACKS_VERSION)?;
            e.u8(1)?.array(self.acks.len() as u64)?;
            self.acks
                .iter()
                .try_for_each(|ack| e.bytes(&ack.to_bytes()).map(|_| ()))
        });
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let body = bytes.split_last_chunk().and_then(|(body, crc)| {
            let expected = u32::from_le_bytes(*crc);
            (crc32fast::hash(body) == expected).then_some(body)
        });
        let body = body.ok_or_else(|| DecodeError::malformed("acks", &"its check sum is wrong"))?;
        let mut decoder = Decoder::new(body);
        let mut map = MapReader::new(&mut decoder, "acks")?;
        map.version(ACKS_VERSION)?;
        let acks = map.optional_with(1, |d| {
            list(d, "acks", MAX_PEERS, |d| {
                Ack::from_bytes(d.bytes().map_err(|e| DecodeError::malformed("ack", &e))?)
            })
        })?;
        map.finish()?;
        let acks = acks.ok_or(DecodeError::Missing { field: "acks" })?;
        Ok(Self { acks })
    }
}

#[cfg(test)]
mod tests {
    use knhk_receipts::storage::ModelStorage;

    use super::*;

    #[test]
    fn what_was_saved_comes_back_and_damage_is_as_if_nothing_was() {
        let ack = |peer: &str| Ack {
            peer: peer.to_owned(),
            origin: "knhk.dev/log/r".to_owned(),
            size: 7,
            root: [1; 32],
            kid: [2; 32],
            signature: vec![3; 70],
        };
        let storage = ModelStorage::new();
        assert_eq!(SavedAcks::load(&storage).expect("loads"), SavedAcks::default());
        let saved = SavedAcks::new(vec![ack("a"), ack("b")]);
        saved.save(&storage).expect("saves");
        let loaded = SavedAcks::load(&storage).expect("loads");
        assert_eq!((loaded.get("b"), loaded.get("c")), (Some(&ack("b")), None));
        assert_eq!(loaded, saved);
        storage.flip_bit(ACKS_PATH, 20, 3);
        assert_eq!(SavedAcks::load(&storage).expect("loads"), SavedAcks::default());
    }
}
