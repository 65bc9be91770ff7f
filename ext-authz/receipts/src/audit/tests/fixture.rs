use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::audit::{Audit, AuditError, Directory, Pin, Report, Source, audit};
use crate::payload::samples;
use crate::testing::{TestSigner, still_env};
use crate::{DiskStorage, Env, Log, LogOptions, SignedCheckpoint};

/// Small segments: a log of some thousand entries has many.
const SEGMENT_BYTES: u64 = 40_000;

/// A log with keys 1, 2 and 3.
pub(super) struct Fixture {
    pub(super) dir: tempfile::TempDir,
    now_ms: Arc<AtomicU64>,
    /// Checkpoints that somebody kept meanwhile.
    pub(super) seen: Vec<SignedCheckpoint>,
}

impl Fixture {
    /// Of 1,500 entries: two rotations, a checkpoint kept each minute.
    pub(super) async fn with_a_life() -> Self {
        let mut fixture = Self::empty();
        let log = fixture.open().await;
        for step in 0..15_u64 {
            if step == 4 || step == 11 {
                let to = TestSigner::key_of(if step == 4 { 2 } else { 3 });
                log.rotate(to, "somebody").await.expect("rotates");
            }
            let payloads = (0..100 - step % 3)
                .map(|n| samples::decision(step * 100 + n))
                .collect();
            log.append(payloads).await.expect("appends");
            fixture.now_ms.fetch_add(40_000, Ordering::SeqCst);
            let signed = log.flush_now().await.expect("flushes").expect("a checkpoint");
            fixture.seen.push(signed);
        }
        log.close().await.expect("closes");
        fixture
    }

    pub(super) fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
            now_ms: Arc::new(AtomicU64::new(1_700_000_000_000)),
            seen: Vec::new(),
        }
    }

    pub(super) async fn open(&self) -> Log {
        let storage = Arc::new(DiskStorage::open(self.dir.path()).expect("a directory"));
        let now_ms = Arc::clone(&self.now_ms);
        let env = Env {
            clock: Arc::new(move || now_ms.load(Ordering::SeqCst)),
            ..still_env()
        };
        let options = LogOptions {
            flush: Duration::from_secs(60),
            ..LogOptions::new("test")
        };
        Log::open_with_segments(
            storage,
            options,
            Arc::new(TestSigner::new(1)),
            env,
            SEGMENT_BYTES,
            None,
        )
        .await
        .expect("opens")
    }

    pub(super) fn log_dir(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(super) fn audit(&self) -> Report {
        audit_dir(self.dir.path()).expect("a report")
    }

    /// Every file below `log/`, by its path there, with its length.
    pub(super) fn files(&self) -> Vec<(String, u64)> {
        let mut files = BTreeMap::new();
        list(&self.log_dir(), "", &mut files);
        files.into_iter().collect()
    }

    /// Changes a file, looks, and changes it back.
    pub(super) fn with_changed<T>(
        &self,
        file: &str,
        change: impl FnOnce(&mut Vec<u8>),
        look: impl FnOnce() -> T,
    ) -> T {
        let path = self.log_dir().join(file);
        let before = fs::read(&path).expect("it can be read");
        let mut after = before.clone();
        change(&mut after);
        fs::write(&path, after).expect("it can be written");
        let looked = look();
        fs::write(&path, before).expect("it can be written");
        looked
    }
}

fn list(root: &Path, dir: &str, files: &mut BTreeMap<String, u64>) {
    for entry in fs::read_dir(root.join(dir)).expect("a directory") {
        let entry = entry.expect("a name");
        let name = entry.file_name().into_string().expect("a name of ours");
        let path = if dir.is_empty() {
            name
        } else {
            format!("{dir}/{name}")
        };
        let meta = entry.metadata().expect("it is there");
        if meta.is_dir() {
            list(root, &path, files);
        } else {
            files.insert(path, meta.len());
        }
    }
}

pub(super) fn audit_dir(path: &Path) -> Result<Report, AuditError> {
    audit_with(&Directory::open(path)?, &[], &[])
}

pub(super) fn audit_with(
    source: &dyn Source,
    pinned: &[Pin],
    since: &[(String, SignedCheckpoint)],
) -> Result<Report, AuditError> {
    audit(
        source,
        &Audit {
            threads: 2,
            pinned,
            since,
            progress: &|_| {},
        },
    )
}

/// Whether a file of the log holds entries.
pub(super) fn is_segment(file: &str) -> bool {
    Path::new(file)
        .extension()
        .is_some_and(|extension| extension == "seg")
}
