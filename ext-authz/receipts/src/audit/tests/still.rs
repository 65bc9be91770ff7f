//! A log that nobody writes to, and one that somebody does.

use super::fixture::{Fixture, audit_dir, audit_with, is_segment};
use crate::audit::{Directory, Pin};
use crate::checkpoint::Unsigned;
use crate::payload::samples;
use crate::testing::TestSigner;

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_log_is_clean_and_counted() {
    let fixture = Fixture::with_a_life().await;
    let report = fixture.audit();
    assert_eq!(report.findings, [], "{report:#?}");
    let newest = fixture.seen.last().expect("signed");
    assert_eq!((report.size, report.entries), (newest.size(), newest.size()));
    assert_eq!(report.root, crate::payload::to_hex(&newest.root()));
    let keys: Vec<_> = report
        .keys
        .iter()
        .map(|key| (key.version.as_str(), key.state))
        .collect();
    assert_eq!(keys, [("k1", "retired"), ("k2", "retired"), ("k3", "active")]);
    assert!(report.checkpoints > 8, "{report:#?}");
    assert!(report.tiles >= 14, "{report:#?}");
    assert!(!report.pinned && report.notes.is_empty() && report.unsigned == 0);
    assert_eq!(
        audit_dir(&fixture.log_dir()).expect("the log itself").findings,
        []
    );
}

/// The first tree of a key has the entry that announces the next one.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_take_over_with_nothing_in_between_are_clean() {
    let fixture = Fixture::with_a_life().await;
    let log = fixture.open().await;
    for seed in 4..7 {
        let to = TestSigner::key_of(seed);
        log.rotate(to, "somebody").await.expect("rotates");
    }
    log.append(vec![samples::decision(1)]).await.expect("appends");
    log.close().await.expect("closes");
    let report = fixture.audit();
    assert_eq!((report.findings.as_slice(), report.keys.len()), (&[][..], 6));
    assert!(report.keys[..5].iter().all(|it| it.state == "retired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_has_to_contain_a_given_key() {
    let fixture = Fixture::with_a_life().await;
    let source = Directory::open(fixture.dir.path()).expect("opens");
    for seed in 1..=3 {
        let pinned = [9, seed].map(|seed| Pin::Key(TestSigner::key_of(seed).public));
        let report = audit_with(&source, &pinned, &[]).expect("a report");
        assert!(report.pinned && report.is_clean(), "{report:#?}");
    }
    let report = audit_with(&source, &[Pin::Key(TestSigner::key_of(9).public)], &[]).expect("a report");
    assert_eq!(
        (report.pinned, report.findings.len(), report.findings[0].label),
        (false, 1, "keys")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_leads_through_every_checkpoint_that_was_seen_and_through_no_other() {
    let fixture = Fixture::with_a_life().await;
    let source = Directory::open(fixture.dir.path()).expect("opens");
    let since: Vec<_> = fixture
        .seen
        .iter()
        .map(|it| (format!("kept-{}", it.size()), it.clone()))
        .collect();
    let report = audit_with(&source, &[], &since).expect("a report");
    assert!(report.is_clean(), "{report:#?}");

    let signed = |size, seed| {
        let unsigned = Unsigned {
            origin: "knhk.dev/log/test".to_owned(),
            size,
            root: [7; 32],
        };
        let signature = TestSigner::new(seed).sign(&unsigned.digest());
        unsigned
            .signed(&TestSigner::key_of(seed).public, signature)
            .expect("signed")
    };
    for (size, seed) in [(200, 1), (200, 2), (1_400, 1), (5_000, 3), (700, 9)] {
        let since = [("mine".to_owned(), signed(size, seed))];
        let report = audit_with(&source, &[], &since).expect("a report");
        assert!(
            report.findings.iter().any(|it| it.file == "mine"),
            "{size} by {seed}: {report:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_grows_is_audited_up_to_the_checkpoint_that_was_read_first() {
    let fixture = Fixture::with_a_life().await;
    let size = fixture.seen.last().expect("signed").size();
    let log = fixture.open().await;
    log.append((0..300).map(samples::decision).collect())
        .await
        .expect("appends");
    let report = fixture.audit();
    assert!(report.is_clean() && report.notes.len() == 1, "{report:#?}");
    assert_eq!((report.size, report.entries), (size, size));

    // One thread appends and signs, the other audits.
    let appending = tokio::spawn({
        let log = log.clone();
        async move {
            for n in 0..40 {
                log.append((0..50).map(|i| samples::decision(n * 50 + i)).collect())
                    .await
                    .expect("appends");
                log.flush_now().await.expect("flushes");
            }
        }
    });
    let mut last = size;
    while !appending.is_finished() {
        let report = fixture.audit();
        assert!(report.is_clean() && report.size >= last, "{report:#?}");
        last = report.size;
    }
    appending.await.expect("appends");
    log.append((0..10).map(samples::decision).collect())
        .await
        .expect("appends");
    log.close().await.expect("closes");
    let report = fixture.audit();
    assert!(report.is_clean() && report.notes.is_empty(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_and_not_signed_yet_is_looked_at_too() {
    let fixture = Fixture::with_a_life().await;
    let size = fixture.seen.last().expect("signed").size();
    let log = fixture.open().await;
    log.append((0..300).map(samples::decision).collect())
        .await
        .expect("appends");
    // As a process that was killed leaves it: the lock is free, and nothing was signed.
    let copy = tempfile::tempdir().expect("a directory");
    for (file, _) in fixture.files() {
        let to = copy.path().join("log").join(&file);
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("made");
        std::fs::copy(fixture.log_dir().join(&file), to).expect("copied");
    }
    let report = audit_dir(copy.path()).expect("a report");
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!((report.size, report.entries), (size, size + 300));
    assert_eq!((report.unsigned, report.notes.len()), (300, 1));
    assert!(
        report.notes[0].contains(&format!(
            "entries from {size} on, 300 of them, are under no signature"
        )),
        "{report:#?}"
    );

    let last = fixture
        .files()
        .into_iter()
        .rfind(|(file, _)| is_segment(file))
        .expect("a segment");
    let path = copy.path().join("log").join(&last.0);
    let bytes = std::fs::read(&path).expect("read");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
    let report = audit_dir(copy.path()).expect("a report");
    assert!(
        report.findings.len() == 1 && report.findings[0].file == last.0,
        "{report:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_a_checkpoint_is_an_error_that_says_so() {
    let fixture = Fixture::empty();
    let log = fixture.open().await;
    log.close().await.expect("closes");
    assert_eq!(
        audit_dir(fixture.dir.path()).expect_err("nothing signed").label(),
        "nothing_signed"
    );
    let nothing = tempfile::tempdir().expect("a directory");
    assert_eq!(
        audit_dir(nothing.path()).expect_err("no log").label(),
        "unreadable"
    );
}
