//! What an auditor trusts beforehand: keys, and what a log's key set says that they signed.

use super::fixture::{Fixture, audit_with};
use crate::audit::{AuditedKey, Directory, Pin, PinnedKey, Report, Trees};
use crate::payload::samples;
use crate::testing::TestSigner;

/// The key set of a log.
fn set(keys: &[AuditedKey]) -> Vec<PinnedKey> {
    keys.iter()
        .map(|it| PinnedKey {
            key: TestSigner::key_of(it.version[1..].parse().expect("its number")).public,
            trees: match it.first_size {
                None => Trees::None,
                Some(first) => Trees::Signed {
                    first,
                    last: it.last_size,
                },
            },
        })
        .collect()
}

fn audit(fixture: &Fixture, pins: &[Pin]) -> Report {
    let source = Directory::open(fixture.dir.path()).expect("opens");
    audit_with(&source, pins, &[]).expect("a report")
}

fn assert_clean(fixture: &Fixture, pins: &[Pin]) {
    let report = audit(fixture, pins);
    assert!(report.pinned && report.is_clean(), "{report:#?}");
}

fn assert_found(fixture: &Fixture, set: Vec<PinnedKey>) {
    let report = audit(fixture, &[Pin::Set(set)]);
    let labels: Vec<_> = report.findings.iter().map(|it| it.label).collect();
    assert_eq!((labels, report.pinned), (vec!["keys"], false), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_agrees_with_its_own_key_set_and_with_older_ones() {
    let fixture = Fixture::with_a_life().await;
    let now = set(&fixture.audit().keys);
    assert_clean(&fixture, &[Pin::Set(now.clone())]);
    let first = |at: usize| match now[at].trees {
        Trees::Signed { first, .. } => first,
        other => panic!("{other:?}"),
    };
    let still = |at: usize| Trees::Signed {
        first: first(at),
        last: None,
    };
    let trees = |of: &[Trees]| {
        let keys = now.iter().zip(of);
        keys.map(|(it, trees)| PinnedKey {
            key: it.key.clone(),
            trees: *trees,
        })
        .collect::<Vec<_>>()
    };
    for older in [
        trees(&[still(0)]),
        trees(&[still(0), Trees::None]),
        trees(&[now[0].trees, Trees::From(first(1))]),
        trees(&[now[0].trees, still(1)]),
    ] {
        assert_clean(&fixture, &[Pin::Set(older)]);
    }
    // That of another log says nothing of this one.
    let other = vec![PinnedKey {
        key: TestSigner::key_of(9).public,
        trees: Trees::Signed {
            first: 2,
            last: Some(3),
        },
    }];
    let by_key = Pin::Key(TestSigner::key_of(2).public);
    assert_clean(&fixture, &[Pin::Set(other.clone()), by_key]);
    assert_found(&fixture, other);
    assert_found(&fixture, trees(&[Trees::None, Trees::None, Trees::None]));

    for wrong in [
        trees(&[Trees::Signed {
            first: first(0) + 1,
            last: None,
        }]),
        trees(&[Trees::Signed {
            first: first(0),
            last: Some(first(0)),
        }]),
        trees(&[now[0].trees, Trees::From(first(1) + 1)]),
    ] {
        assert_found(&fixture, wrong);
    }
}

/// Who has a key that was replaced can sign whatever that key could; the key set tells that it was replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_a_retired_key_forged_is_not_the_one_of_the_key_set() {
    let genuine = Fixture::empty();
    let log = genuine.open().await;
    log.append(vec![samples::decision(1)]).await.expect("appends");
    log.flush_now().await.expect("flushes");
    log.rotate(TestSigner::key_of(2), "somebody")
        .await
        .expect("rotates");
    log.append(vec![samples::decision(2)]).await.expect("appends");
    log.close().await.expect("closes");
    let keys = set(&genuine.audit().keys);
    assert_clean(&genuine, &[Pin::Set(keys.clone())]);

    // Another history up to where the key signed last, and up to other sizes.
    for entries in 1..6 {
        let forged = Fixture::empty();
        let log = forged.open().await;
        log.append(vec![samples::decision(9)]).await.expect("appends");
        log.flush_now().await.expect("flushes");
        for seq in 1..entries {
            log.append(vec![samples::decision(seq)]).await.expect("appends");
        }
        log.close().await.expect("closes");
        assert!(forged.audit().is_clean(), "by itself nothing is wrong with it");
        assert_found(&forged, keys.clone());
    }

    // The same sizes, and a key of the forger that follows.
    let forged = Fixture::empty();
    let log = forged.open().await;
    log.append(vec![samples::decision(9)]).await.expect("appends");
    log.flush_now().await.expect("flushes");
    log.rotate(TestSigner::key_of(9), "a forger")
        .await
        .expect("rotates");
    log.append(vec![samples::decision(9)]).await.expect("appends");
    log.close().await.expect("closes");
    let report = forged.audit();
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(
        set(&report.keys)[0].trees,
        keys[0].trees,
        "the key that was stolen signed trees of the same sizes"
    );
    assert_found(&forged, keys);
}
