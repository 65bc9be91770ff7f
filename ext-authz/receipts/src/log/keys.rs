//! The keys of a log that is there: from their file where that agrees with the log, and else from the entries.

use std::sync::Arc;

use super::error::LogError;
use super::kept;
use super::keyring::{KEYS_PATH, KeyState, Keyring, MAX_FILE_BYTES};
use super::reading;
use super::segments::Segments;
use crate::key::PublicKey;
use crate::payload::{Genesis, KeyReceipt, Payload, is_key_receipt};
use crate::root::SignedRoot;
use crate::storage::read_whole;

/// Keys that agree with entries, root, and kept checkpoints.
pub(crate) struct Found {
    pub(crate) keyring: Keyring,
    /// Whether the file has just these.
    pub(crate) is_on_disk: bool,
}

/// Finds the keys. Changes nothing.
pub(crate) fn find(
    segments: &Arc<Segments>,
    genesis: &Genesis,
    root: Option<&SignedRoot>,
    kept: &kept::Found,
) -> Result<Found, LogError> {
    let storage = segments.storage().as_ref();
    let stored = read_whole(storage, KEYS_PATH, MAX_FILE_BYTES).ok();
    if let Some(keyring) = stored.and_then(|bytes| Keyring::from_bytes(&bytes))
        && agrees_with_entries(&keyring, segments, genesis)?
        && agree(&keyring, root, kept).is_ok()
    {
        let Some(from) = keyring.announcing() else {
            let is_on_disk = true;
            return Ok(Found { keyring, is_on_disk });
        };
        let mut keyring = keyring.with_announcing(None);
        take_in(&mut keyring, segments, genesis, from)?;
        let is_on_disk = false;
        return Ok(Found { keyring, is_on_disk });
    }
    tracing::warn!("`{KEYS_PATH}` is missing or damaged; reading the keys from all entries");
    let keyring = rebuild(segments, genesis, root)?;
    agree(&keyring, root, kept)?;
    let is_on_disk = false;
    Ok(Found { keyring, is_on_disk })
}

/// Whether each listed key is the one of its entry.
fn agrees_with_entries(
    keyring: &Keyring,
    segments: &Arc<Segments>,
    genesis: &Genesis,
) -> Result<bool, LogError> {
    let Some(first) = Keyring::begin(genesis) else {
        return Ok(false);
    };
    let mut of_entries = first;
    for key in keyring.keys().iter().skip(1) {
        if key.announced >= segments.size() {
            return Ok(false);
        }
        match reading::payload(segments, key.announced)? {
            Payload::Key(receipt) if receipt.proven(&genesis.origin).is_some() => {
                of_entries.announced(key.announced, &receipt);
            }
            _ => return Ok(false),
        }
    }
    let same = keyring.keys().iter().zip(of_entries.keys()).all(|(a, b)| {
        (a.signing_key(), a.announced, a.announced_unix_ms, a.previous)
            == (b.signing_key(), b.announced, b.announced_unix_ms, b.previous)
    });
    Ok(same && keyring.keys().len() == of_entries.keys().len())
}

/// Takes in the keys that entries from `from` on announce.
fn take_in(
    keyring: &mut Keyring,
    segments: &Arc<Segments>,
    genesis: &Genesis,
    from: u64,
) -> Result<(), LogError> {
    let (mut cursor, mut index) = (segments.cursor(from), from);
    while let Some(payload) = cursor.next(|it| is_key_receipt(it.payload).then(|| it.payload.to_vec()))? {
        if let Some(bytes) = payload {
            keyring.announced(index, &receipt(genesis, index, &bytes)?);
        }
        index += 1;
    }
    Ok(())
}

/// A key without its proof is none that may sign: a log with such an entry is not gone on with, as an audit would refuse it.
fn receipt(genesis: &Genesis, index: u64, bytes: &[u8]) -> Result<KeyReceipt, LogError> {
    match Payload::from_bytes(bytes) {
        Ok(Payload::Key(receipt)) if receipt.proven(&genesis.origin).is_some() => Ok(receipt),
        Ok(Payload::Key(_)) => Err(LogError::damaged(format!(
            "entry {index} announces a key without a proof by that key"
        ))),
        Ok(other) => Err(LogError::damaged(format!(
            "entry {index} is a {}, and begins as a key",
            other.kind()
        ))),
        Err(source) => Err(LogError::Payload { index, source }),
    }
}

/// From all entries, and from all kept checkpoints. A key that was to take over and has signed nothing is an announced one
/// again: its rotation has to be asked for anew.
fn rebuild(
    segments: &Arc<Segments>,
    genesis: &Genesis,
    root: Option<&SignedRoot>,
) -> Result<Keyring, LogError> {
    let no_key = || LogError::damaged("the genesis has no usable key");
    let mut keyring = Keyring::begin(genesis).ok_or_else(no_key)?;
    let mut announced = Vec::new();
    let (mut cursor, mut index) = (segments.cursor(0), 0);
    while let Some(payload) = cursor.next(|it| is_key_receipt(it.payload).then(|| it.payload.to_vec()))? {
        if let Some(bytes) = payload {
            announced.push((index, receipt(genesis, index, &bytes)?));
        }
        index += 1;
    }
    let mut announced = announced.into_iter().peekable();
    // Signed trees in order: the kept ones, then the newest.
    let mut last = None;
    let mut signed = |size: u64, key: &dyn Fn(&PublicKey) -> bool| -> Result<(), LogError> {
        while let Some((index, receipt)) = announced.next_if(|(index, _)| *index < size) {
            keyring.announced(index, &receipt);
        }
        let by = keyring.keys().iter().find(|it| key(&it.key)).cloned();
        let by = by.ok_or_else(|| {
            LogError::damaged(format!(
                "the checkpoint of {size} entries is not signed by a key that an entry in it announces"
            ))
        })?;
        if by.state != KeyState::Active {
            // A checkpoint by the key before it covers its entry.
            let covered = last.filter(|last| *last > by.announced);
            let next = covered.and_then(|last| keyring.with_successor(by.announced, last));
            keyring = next.ok_or_else(|| {
                LogError::damaged(format!(
                    "the checkpoint of {size} entries is signed by {}, whose turn it is not",
                    by.key
                ))
            })?;
        }
        keyring = keyring.with_first(size);
        last = Some(size);
        Ok(())
    };
    kept::each(segments.storage().as_ref(), |checkpoint| {
        signed(checkpoint.size(), &|key| {
            checkpoint.verify(std::slice::from_ref(key)).is_ok()
        })
    })?;
    if let Some(root) = root {
        signed(root.size(), &|key| key.key_id() == root.cose.kid)?;
    }
    for (index, receipt) in announced {
        keyring.announced(index, &receipt);
    }
    Ok(keyring)
}

/// Whether the keys fit to what was signed and kept.
fn agree(keyring: &Keyring, root: Option<&SignedRoot>, kept: &kept::Found) -> Result<(), LogError> {
    let refuse = |what: String| Err(LogError::damaged(what));
    let Some(root) = root else {
        if kept.newest().is_some() || keyring.last_to_keep().is_some() {
            return refuse(format!(
                "`{}` is missing, and signatures were made",
                super::ROOT_PATH
            ));
        }
        return Ok(());
    };
    let active = keyring.active();
    let of_active = active.key.key_id() == root.cose.kid;
    // The active key has not signed yet: the one before it signed last.
    let of_previous = active.first_size.is_none()
        && keyring
            .previous()
            .is_some_and(|it| it.key.key_id() == root.cose.kid && it.last_size == Some(root.size()));
    let Some(signer) = keyring.by_id(&root.cose.kid).filter(|_| of_active || of_previous) else {
        return refuse(format!(
            "`{}` is not signed by the key that signs",
            super::ROOT_PATH
        ));
    };
    if let Err(error) = root.verify(std::slice::from_ref(&signer.key)) {
        return refuse(format!("`{}`: {error}", super::ROOT_PATH));
    }
    if kept.newest() > Some(root.size()) {
        return refuse(format!(
            "a checkpoint of {} entries is kept, and `{}` is of {}",
            kept.newest().unwrap_or(0),
            super::ROOT_PATH,
            root.size()
        ));
    }
    let to_keep = keyring.last_to_keep();
    if kept.newest() < to_keep && to_keep != Some(root.size()) {
        return refuse(format!(
            "the checkpoint of {} entries is not among those that are kept",
            to_keep.unwrap_or(0)
        ));
    }
    Ok(())
}
