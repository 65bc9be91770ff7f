//! Keys that follow each other, as the service uses them.

use std::sync::Arc;

use super::service::{Fixture, NEVER, options};
use crate::kept::split;
use crate::log::KeyState;
use crate::payload::samples;
use crate::storage::ModelStorage;
use crate::testing::{TestSigner, still_env};
use crate::{Log, LogError, Payload, SignedCheckpoint, SigningKey};

fn key(seed: u8) -> SigningKey {
    TestSigner::key_of(seed)
}

/// Appends, flushes, and says which of the first keys verifies the newest entry's receipt.
async fn signer_of_next(log: &Log) -> u8 {
    let indexes = log
        .append(vec![samples::decision(log.size())])
        .await
        .expect("appends");
    log.flush_now().await.expect("flushes");
    let file = log.receipt(indexes[0]).await.expect("covered");
    let by: Vec<_> = (1..5)
        .filter(|seed| file.verify(&[key(*seed).public]).is_ok())
        .collect();
    assert_eq!(by.len(), 1, "signed by exactly one key");
    by[0]
}

fn kept(log: &Log) -> Vec<SignedCheckpoint> {
    let bytes = log.kept_checkpoints(0).expect("there are some");
    let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
    while let Some((note, behind)) = split(rest) {
        found.push(SignedCheckpoint::from_bytes(note).expect("a checkpoint"));
        rest = behind;
    }
    assert!(rest.is_empty(), "whole notes only");
    found
}

#[tokio::test]
async fn keys_follow_each_other_and_a_restart_goes_on_with_the_last() {
    let fixture = Fixture::new();
    let mut log = fixture.open().await;
    assert_eq!(signer_of_next(&log).await, 1);
    for seed in [2, 3] {
        let taken = log.rotate(key(seed), "an operator").await.expect("rotates");
        assert_eq!(taken.signing_key(), key(seed));
        assert_eq!((taken.state, taken.first_size), (KeyState::Active, None));
        let signatures = fixture.signer.signatures();
        log.flush_now().await.expect("flushes");
        assert_eq!(
            fixture.signer.signatures(),
            signatures,
            "nothing new is nothing signed"
        );
        if seed == 3 {
            // Before the new key has signed anything.
            log.close().await.expect("closes");
            log = fixture.open().await;
        }
        assert_eq!(signer_of_next(&log).await, seed);
        let receipt = log.receipt(taken.announced).await.expect("covered");
        let said = receipt.verify(&[key(seed).public]).expect("genuine").payload;
        let Payload::Key(said) = said else {
            panic!("{said:?}");
        };
        assert_eq!(
            (said.who.as_str(), &said.version),
            ("an operator", &key(seed).version)
        );
        assert_eq!(said.proven("knhk.dev/log/test"), Some(key(seed).public));
        assert_eq!(said.proven("knhk.dev/log/other"), None);
        assert_eq!(said.previous, key(seed - 1).public.key_id());
    }
    let keys = log.keys();
    let states: Vec<_> = keys.iter().map(|key| key.state.as_str()).collect();
    assert_eq!(states, ["retired", "retired", "active"]);
    assert_eq!(log.active_key(), keys[2]);
    assert_eq!((keys[0].announced, keys[0].previous), (0, None));
    // The first and the last checkpoint of each key are kept, and each leads to the next.
    let kept = kept(&log);
    for key in &keys {
        for size in [key.first_size, key.last_size].into_iter().flatten() {
            let found = kept.iter().find(|it| it.size() == size);
            let found = found.unwrap_or_else(|| panic!("{size} of {key:?} is not kept"));
            found
                .verify(std::slice::from_ref(&key.key))
                .expect("signed by it");
        }
    }
    for pair in keys.windows(2) {
        assert!(pair[0].last_size.expect("it was replaced") > pair[1].announced);
        assert!(pair[1].first_size >= pair[0].last_size);
    }
    assert_eq!(log.kept_checkpoints(1).expect_err("one file").label(), "no_tile");
    log.close().await.expect("closes");
    assert_eq!(fixture.open().await.keys(), keys, "the same after a restart");
}

#[tokio::test]
async fn a_key_that_signs_or_signed_cannot_take_over() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    let refused = async |seed| log.rotate(key(seed), "test").await.expect_err("refused");
    assert_eq!(refused(1).await.label(), "key_is_active");
    log.rotate(key(2), "test").await.expect("rotates");
    for (seed, label) in [(1, "key_is_retired"), (2, "key_is_active")] {
        let error = refused(seed).await;
        assert_eq!(error.label(), label);
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let unnamed = SigningKey {
        version: String::new(),
        ..key(3)
    };
    for (to, who) in [(unnamed, "test"), (key(3), ""), (key(3), "a\nb")] {
        let error = log.rotate(to, who).await.expect_err("refused");
        assert_eq!(error.label(), "invalid_option", "{error}");
    }
    assert_eq!(log.keys().len(), 2);
}

/// In each step, the old key goes on, and trying again goes on from there.
#[tokio::test]
async fn a_rotation_that_fails_leaves_the_old_key() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    assert_eq!(signer_of_next(&log).await, 1);

    // The new key does not sign.
    fixture.signer.fail_only(&[key(2)]);
    let error = log.rotate(key(2), "test").await.expect_err("no proof");
    assert_eq!(error.label(), "unavailable");
    assert_eq!(log.keys().len(), 1, "nothing was announced");
    assert_eq!(signer_of_next(&log).await, 1);

    // The old key does not sign over the announcement.
    fixture.signer.fail_only(&[key(1)]);
    let size = log.size();
    for _ in 0..2 {
        let error = log.rotate(key(2), "test").await.expect_err("not covered");
        assert_eq!(error.label(), "sign");
        assert!(matches!(error, LogError::Rotate(_)), "{error}");
        assert_eq!(log.size(), size + 1, "it is announced once");
        assert_eq!(log.keys()[1].state, KeyState::Announced);
    }
    fixture.signer.fail_only(&[]);
    assert_eq!(signer_of_next(&log).await, 1);

    // A restart knows of the announcement, which goes on, or stays without effect.
    log.close().await.expect("closes");
    let log = fixture.open().await;
    assert_eq!(log.keys()[1].state, KeyState::Announced);
    assert_eq!(signer_of_next(&log).await, 1);
    let taken = log.rotate(key(2), "test").await.expect("goes on");
    assert_eq!(taken.announced, size);
    assert_eq!(signer_of_next(&log).await, 2);
}

#[tokio::test]
async fn another_key_may_take_over_instead_of_one_that_was_announced() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    fixture.signer.fail_only(&[key(1)]);
    log.rotate(key(2), "test").await.expect_err("not covered");
    fixture.signer.fail_only(&[]);
    log.rotate(key(3), "test").await.expect("rotates");
    assert_eq!(signer_of_next(&log).await, 3);
    // The announcement named a key before it that no longer signs: it is made anew.
    let size = log.size();
    let taken = log.rotate(key(2), "test").await.expect("rotates");
    assert_eq!(taken.announced, size);
    assert_eq!(taken.previous, Some(key(3).public.key_id()));
    let versions: Vec<_> = log.keys().into_iter().map(|key| key.version).collect();
    assert_eq!(versions, ["k1", "k3", "k2"]);
    assert_eq!(signer_of_next(&log).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_at_once_follow_each_other_and_lose_nothing() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    let rotations: Vec<_> = (2..5)
        .map(|seed| {
            let log = log.clone();
            tokio::spawn(async move { log.rotate(key(seed), "test").await.map(|it| it.version) })
        })
        .collect();
    let appends: Vec<_> = (0..50)
        .map(|seq| {
            let log = log.clone();
            tokio::spawn(async move { log.append(vec![samples::decision(seq)]).await })
        })
        .collect();
    for rotation in rotations {
        rotation.await.expect("ends").expect("rotates");
    }
    let keys: Vec<_> = log.keys().into_iter().map(|key| key.key).collect();
    assert_eq!(keys.len(), 4);
    for append in appends {
        append.await.expect("ends").expect("appends");
    }
    log.flush_now().await.expect("flushes");
    for index in 0..log.size() {
        let file = log.receipt(index).await.expect("covered");
        file.verify(&keys).expect("by one of the keys");
    }
    let active = log.active_key();
    log.close().await.expect("closes");
    assert_eq!(fixture.open().await.active_key().key, active.key);
}

#[tokio::test]
async fn only_the_log_writes_its_genesis_and_its_keys() {
    let storage = Arc::new(ModelStorage::new());
    let signer = Arc::new(TestSigner::new(1));
    let log = Log::open(storage, options(NEVER), signer, still_env())
        .await
        .expect("opens");
    let genesis = log.payload(0).expect("reads");
    log.rotate(key(2), "test").await.expect("rotates");
    let announcement = log.payload(log.active_key().announced).expect("reads");
    for payload in [genesis, announcement] {
        let error = log.append(vec![payload]).await.expect_err("refused");
        assert_eq!(error.label(), "own_kind");
    }
}

/// A start does not ask the signer: the keys are on disk.
#[tokio::test]
async fn a_log_that_is_there_starts_while_its_signer_is_away() {
    let fixture = Fixture::new();
    fixture.signer.set_failing(true);
    let error = fixture
        .try_open()
        .await
        .map(|_| ())
        .expect_err("a new log needs a key");
    assert_eq!(error.label(), "unavailable");
    fixture.signer.set_failing(false);
    fixture.open().await.close().await.expect("closes");
    fixture.signer.set_failing(true);
    let log = fixture.open().await;
    log.append(vec![samples::decision(1)]).await.expect("appends");
}
