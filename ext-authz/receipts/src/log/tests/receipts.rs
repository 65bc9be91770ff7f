//! Receipts and tiles of a running log, and what can be wrong with them.

use std::sync::Arc;

use proptest::prelude::*;
use tlog_tiles::{Hash, check_tree};

use super::service::{Fixture, NEVER, options};
use crate::payload::samples;
use crate::storage::ModelStorage;
use crate::testing::{TestSigner, still_env};
use crate::{Ack, Log, ReceiptFile, SignedCheckpoint, VerifyError};

/// Whoever kept a checkpoint sees that a later one has not rewritten anything before it.
#[tokio::test]
async fn each_checkpoint_is_proven_to_be_the_beginning_of_a_later_one() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    assert_eq!(
        log.consistency(1).expect_err("none is signed").label(),
        "not_covered"
    );
    let mut kept = Vec::new();
    for step in [1, 254, 1, 300, 700] {
        let decisions = (0..step).map(samples::decision).collect();
        log.append(decisions).await.expect("appends");
        kept.extend(log.flush_now().await.expect("flushes"));
    }
    for earlier in &kept {
        let (newest, proof) = log.consistency(earlier.size()).expect("a proof");
        let proof = proof.into_iter().map(Hash).collect();
        let (root, size) = (Hash(newest.root()), newest.size());
        check_tree(&proof, size, root, earlier.size(), Hash(earlier.root())).expect("it is the beginning");
        let other = Hash([7; 32]);
        check_tree(&proof, size, root, earlier.size(), other).expect_err("another one is not");
    }
    let size = log.size();
    for none in [0, size + 1] {
        assert_eq!(
            log.consistency(none).expect_err("no such tree").label(),
            "not_covered"
        );
    }
}

#[tokio::test]
async fn a_receipt_verifies_offline_and_only_with_the_logs_key() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    log.append((0..600).map(samples::decision).collect())
        .await
        .expect("appends");
    assert_eq!(
        log.receipt(5).await.expect_err("not flushed").label(),
        "not_covered"
    );
    log.flush_now().await.expect("flushes");
    for index in [0, 1, 255, 256, 511, 512, 600] {
        let file = log.receipt(index).await.expect("covered");
        let file = ReceiptFile::from_bytes(&file.to_bytes()).expect("its own bytes");
        let verified = file.verify(&[fixture.signer.public_key()]).expect("genuine");
        assert_eq!(verified.id.to_string(), format!("test/{index}"));
        assert_eq!(verified.payload, log.payload(index).expect("reads"));
        let names: Vec<_> = verified.checks.iter().map(|check| check.name).collect();
        assert_eq!(
            names,
            [
                "payload",
                "commitment",
                "inclusion",
                "signature",
                "cose",
                "origin"
            ]
        );
        let other = file
            .verify(&[TestSigner::new(2).public_key()])
            .expect_err("another key");
        assert_eq!(other.label(), "signature");
    }
    assert_eq!(
        log.receipt(601).await.expect_err("there is none").label(),
        "not_found"
    );
    assert_eq!(log.payload(601).expect_err("there is none").label(), "not_found");
    assert_eq!(log.scan(601).count(), 0);
}

#[tokio::test]
async fn each_check_of_a_receipt_can_fail_by_itself() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    log.append((0..9).map(samples::decision).collect())
        .await
        .expect("appends");
    log.flush_now().await.expect("flushes");
    let good = log.receipt(4).await.expect("covered");
    let keys = [fixture.signer.public_key()];
    good.verify(&keys).expect("genuine");
    let label = |change: &dyn Fn(&mut ReceiptFile)| {
        let mut file = good.clone();
        change(&mut file);
        file.verify(&keys).expect_err("changed").label()
    };
    assert_eq!(label(&|file| file.payload[0] ^= 1), "payload");
    assert_eq!(
        label(&|file| file.payload = samples::decision(99).to_bytes()),
        "commitment"
    );
    assert_eq!(label(&|file| file.salt[0] ^= 1), "commitment");
    assert_eq!(label(&|file| file.index += 1), "inclusion");
    assert_eq!(label(&|file| file.index = u64::MAX), "inclusion");
    assert_eq!(label(&|file| file.proof[0][0] ^= 1), "inclusion");
    assert_eq!(label(&|file| file.proof.truncate(1)), "inclusion");
    assert_eq!(label(&|file| file.proof.clear()), "inclusion");
    assert_eq!(label(&|file| file.proof.push([0; 32])), "inclusion");
    let forger = TestSigner::new(3);
    assert_eq!(
        label(&|file| file.checkpoint = resigned(&file.checkpoint, &forger, "knhk.dev/log/test")),
        "signature"
    );
    assert_eq!(
        label(&|file| file.checkpoint = resigned(&file.checkpoint, &fixture.signer, "knhk.dev/log/x")),
        "origin"
    );
    assert_eq!(label(&|file| file.cose.signed.kid[0] ^= 1), "cose");
    assert_eq!(label(&|file| file.cose.signed.signature[40] ^= 1), "cose");
    assert_eq!(label(&|file| file.cose.tree_size += 1), "cose");
    assert_eq!(label(&|file| file.cose.leaf_index += 1), "cose");
    assert_eq!(label(&|file| file.cose.path[0][0] ^= 1), "cose");
    assert_eq!(label(&|file| file.cose.path.truncate(1)), "cose");
    let error = good.verify(&[]).expect_err("no key");
    assert!(matches!(error, VerifyError::Signature(_)), "{error}");
}

fn resigned(checkpoint: &SignedCheckpoint, signer: &TestSigner, origin: &str) -> SignedCheckpoint {
    let unsigned = crate::checkpoint::Unsigned {
        origin: origin.to_owned(),
        size: checkpoint.size(),
        root: checkpoint.root(),
    };
    unsigned
        .signed(&signer.public_key(), signer.sign(&unsigned.digest()))
        .expect("its own signature")
}

#[tokio::test]
async fn acknowledgements_go_with_the_receipt_and_are_checked_where_their_key_is_given() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    log.append((0..9).map(samples::decision).collect())
        .await
        .expect("appends");
    log.flush_now().await.expect("flushes");
    let held = log.checkpoint().expect("published");
    log.append((9..20).map(samples::decision).collect())
        .await
        .expect("appends");
    log.flush_now().await.expect("flushes");
    let newest = log.checkpoint().expect("published");
    let acks = vec![acknowledged("eu", 7, &held), acknowledged("ap", 8, &newest)];
    let file = log.receipt_held(3, acks.clone()).await.expect("covered");
    assert_eq!(ReceiptFile::from_bytes(&file.to_bytes()), Ok(file.clone()));
    let keys = [fixture.signer.public_key()];
    let told = |file: &ReceiptFile, acks: &[u8]| {
        let acks: Vec<_> = acks
            .iter()
            .map(|seed| TestSigner::new(*seed).public_key())
            .collect();
        let checks = file.verify_held(&keys, &acks)?.checks;
        let of = checks.into_iter().filter(|check| check.name == "acknowledgement");
        Ok::<_, VerifyError>(of.map(|check| check.detail).collect::<Vec<_>>())
    };
    let both = told(&file, &[7, 8]).expect("genuine");
    assert!(
        both[0].starts_with("eu holds 10 entries") && both[1].starts_with("ap holds 21 entries"),
        "{both:?}"
    );
    let one = told(&file, &[8]).expect("genuine");
    assert!(
        one[0].contains("not checked") && one[1].starts_with("ap holds"),
        "{one:?}"
    );

    let behind = log.receipt_held(15, acks).await.expect("covered");
    assert_eq!(
        behind.acknowledged.len(),
        1,
        "one of them is of a tree without the entry"
    );
    let label = |change: &dyn Fn(&mut ReceiptFile)| {
        let mut file = file.clone();
        change(&mut file);
        told(&file, &[7, 8]).expect_err("changed").label()
    };
    for change in [
        &|file: &mut ReceiptFile| file.acknowledged[0].proof.clear(),
        &|file: &mut ReceiptFile| file.acknowledged[0].ack.root[0] ^= 1,
        &|file: &mut ReceiptFile| file.acknowledged[0].ack.size = 3,
        &|file: &mut ReceiptFile| file.acknowledged[0].ack.size = 99,
        &|file: &mut ReceiptFile| file.acknowledged[0].ack.peer = "us".to_owned(),
        &|file: &mut ReceiptFile| file.acknowledged[1].proof.push([0; 32]),
        &|file: &mut ReceiptFile| file.acknowledged[1].ack.origin.push('x'),
        &|file: &mut ReceiptFile| file.acknowledged[1].ack.signature[9] ^= 1,
    ] as [&dyn Fn(&mut ReceiptFile); 8]
    {
        assert_eq!(label(change), "acknowledgement");
    }
}

fn acknowledged(peer: &str, seed: u8, checkpoint: &SignedCheckpoint) -> Ack {
    let signer = TestSigner::new(seed);
    let (origin, size, root) = (
        checkpoint.origin().to_owned(),
        checkpoint.size(),
        checkpoint.root(),
    );
    let digest = Ack::digest(peer, &origin, size, &root);
    Ack {
        peer: peer.to_owned(),
        origin,
        size,
        root,
        kid: signer.public_key().key_id(),
        signature: signer.sign(&digest),
    }
}

#[tokio::test]
async fn published_files_are_served_and_nothing_else() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    log.append((0..299).map(samples::decision).collect())
        .await
        .expect("appends");
    log.flush_now().await.expect("flushes");
    log.append((0..10).map(samples::decision).collect())
        .await
        .expect("appends");
    let checkpoint = log.checkpoint().expect("published");
    assert_eq!(log.tile("checkpoint").expect("published"), checkpoint.as_bytes());
    let full = log.tile("tile/0/000").expect("full");
    assert_eq!(full.len(), 256 * 32);
    assert_eq!(log.tile("tile/0/000.p/7").expect("its beginning"), full[..7 * 32]);
    let last = log.tile("tile/0/001.p/44").expect("partial");
    assert_eq!(last.len(), 44 * 32);
    assert_eq!(log.tile("tile/0/001.p/3").expect("its beginning"), last[..3 * 32]);
    assert_eq!(log.tile("tile/1/000.p/1").expect("partial").len(), 32);
    assert_eq!(log.tile("tile/entries/001.p/44").expect("partial").len(), 44 * 34);
    for none in [
        "tile/0/001.p/45",
        "tile/0/001",
        "tile/0/002",
        "tile/1/000",
        "tile/2/000.p/1",
        "lock",
        "",
        "tile/../lock",
    ] {
        assert_eq!(log.tile(none).expect_err(none).label(), "no_tile");
    }
    let entry = log.tile("tile/entries/000.p/2").expect("its beginning");
    assert_eq!(entry[..2], 32_u16.to_be_bytes());
    assert_eq!(entry[2..34], log.receipt(0).await.expect("covered").entry);
}

/// A receipt file to change.
fn some_receipt() -> ReceiptFile {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let storage = Arc::new(ModelStorage::new());
        let signer = Arc::new(TestSigner::new(1));
        let log = Log::open(storage, options(NEVER), signer, still_env())
            .await
            .expect("opens");
        log.append((0..9).map(samples::decision).collect())
            .await
            .expect("appends");
        log.flush_now().await.expect("flushes");
        log.receipt(3).await.expect("covered")
    })
}

#[test]
fn no_changed_receipt_file_verifies() {
    let bytes = some_receipt().to_bytes();
    let keys = [TestSigner::new(1).public_key()];
    let verifies = |bytes: &[u8]| ReceiptFile::from_bytes(bytes).is_ok_and(|file| file.verify(&keys).is_ok());
    assert!(verifies(&bytes));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let change = (0..bytes.len(), 1..=255_u8, any::<bool>(), any::<bool>());
    runner
        .run(&change, |(at, mask, cut, doubled)| {
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            if cut {
                changed.truncate(at);
            }
            if doubled {
                changed.extend_from_slice(&bytes[at..]);
            }
            prop_assert!(changed == bytes || !verifies(&changed));
            Ok(())
        })
        .expect("no change goes unseen");
}
