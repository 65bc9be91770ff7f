//! The key's rotation in the whole service, with a KMS that can be told to fail.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use knhk_kms::local::LocalKms;
use knhk_kms::{Call, KeyMetadata, KeyVersion, Kms, KmsError, Signature, Spki};
use knhk_receipts::{DiskStorage, Payload, PublicKey};

use super::{Ending, Running};
use crate::app::App;
use crate::app::keys::RotateError;
use crate::config::Config;

/// What a KMS refuses, beside nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mood {
    Works,
    MakesNoVersion,
    /// This version signs nothing.
    DoesNotSign(&'static str),
    /// It says that this one is its newest.
    PointsTo(&'static str),
}

/// A local key behind a mood.
struct MoodyKms {
    kms: LocalKms,
    mood: Mutex<Mood>,
}

impl MoodyKms {
    fn open(data: &Path) -> Arc<Self> {
        Arc::new(Self {
            kms: LocalKms::open(data.join("keys")).expect("a key"),
            mood: Mutex::new(Mood::Works),
        })
    }

    fn turns(&self, mood: Mood) {
        *self.mood.lock().expect("not poisoned") = mood;
    }

    fn mood(&self) -> Mood {
        self.mood.lock().expect("not poisoned").clone()
    }
}

#[async_trait]
impl Kms for MoodyKms {
    async fn current(&self) -> Result<KeyVersion, KmsError> {
        match self.mood() {
            Mood::PointsTo(version) => KeyVersion::new(version),
            _ => self.kms.current().await,
        }
    }

    async fn public_key(&self, version: &KeyVersion) -> Result<Spki, KmsError> {
        self.kms.public_key(version).await
    }

    async fn sign(&self, version: &KeyVersion, digest: &[u8; 32]) -> Result<Signature, KmsError> {
        match self.mood() {
            Mood::DoesNotSign(never) if version.as_str() == never => {
                Err(Call::new("test", "sign with", version).key_disabled("told to fail"))
            }
            _ => self.kms.sign(version, digest).await,
        }
    }

    async fn rotate_key(&self) -> Result<KeyVersion, KmsError> {
        match self.mood() {
            Mood::MakesNoVersion => Err(Call::new("test", "rotate", "key").forbidden("told to fail")),
            _ => self.kms.rotate_key().await,
        }
    }

    async fn key_metadata(&self) -> Result<KeyMetadata, KmsError> {
        self.kms.key_metadata().await
    }
}

async fn start_with(kms: &Arc<MoodyKms>, data: &Path) -> Running {
    let config = Config::parse(&format!("region: eu-west-1\ndata: {}", data.display())).expect("valid");
    let storage = Arc::new(DiskStorage::open(data).expect("a directory"));
    let kms: Arc<dyn Kms> = Arc::clone(kms) as _;
    Running::run(super::open_on(&config, storage, kms).await.expect("opens"))
}

/// `version state` of every key.
fn keys(app: &App) -> Vec<String> {
    let set = app.keys.set();
    set.keys
        .iter()
        .map(|key| format!("{} {}", key.version, key.state))
        .collect()
}

/// Every entry is under the newest checkpoint, and verifies with the keys that the service publishes.
async fn everything_verifies(app: &App) {
    let last = app.log.size() - 1;
    app.log.covered(last).await.expect("signed");
    let published: Vec<PublicKey> = app
        .keys
        .set()
        .keys
        .iter()
        .flat_map(|key| PublicKey::from_pem(&key.pem).expect("a key"))
        .collect();
    for index in 0..=last {
        let receipt = app.log.receipt(index).await.expect("a receipt");
        receipt.verify(&published).expect("verifies");
    }
}

#[tokio::test]
async fn an_operator_s_rotation_is_attributed_and_every_receipt_verifies_across_it() {
    let data = tempfile::tempdir().expect("a directory");
    let running = start_with(&MoodyKms::open(data.path()), data.path()).await;
    everything_verifies(&running.app).await;
    let new = running.app.keys.rotate("ops".to_owned()).await.expect("rotates");
    assert_eq!((new.version.as_str(), new.state.as_str()), ("v2", "active"));
    everything_verifies(&running.app).await;
    assert_eq!(keys(&running.app), ["v1 retired", "v2 active"]);
    let said: Vec<_> = running
        .app
        .log
        .scan(0)
        .filter_map(|entry| match entry.expect("readable").1 {
            Payload::Key(key) => Some(("announced".to_owned(), key.who)),
            Payload::Action(action) if action.what == "key.rotated" => Some((action.what, action.who)),
            _ => None,
        })
        .collect();
    let by_ops = |what: &str| (what.to_owned(), "ops".to_owned());
    assert_eq!(said, [by_ops("announced"), by_ops("key.rotated")]);
    let set = running.app.keys.set();
    let (old, new) = (&set.keys[0], &set.keys[1]);
    assert!(
        old.last_size > Some(new.announced) && new.first_size > old.last_size,
        "{set:?}"
    );
    assert!(running.app.readiness().detail.is_empty());
}

#[tokio::test]
async fn a_kms_that_makes_no_version_leaves_the_old_one_in_use_and_says_so_until_it_does() {
    let data = tempfile::tempdir().expect("a directory");
    let kms = MoodyKms::open(data.path());
    let running = start_with(&kms, data.path()).await;
    kms.turns(Mood::MakesNoVersion);
    let error = running
        .app
        .keys
        .rotate("ops".to_owned())
        .await
        .expect_err("refused");
    assert_eq!(error.label(), "forbidden");
    assert_eq!(keys(&running.app), ["v1 active"]);
    let readiness = running.app.readiness();
    assert!(
        readiness.ready && readiness.detail[0].contains("not rotated"),
        "{readiness:?}"
    );
    assert!(running.app.keys.set().rotation.trouble.is_some());
    let failed = "knhk_key_rotations_total{outcome=\"failed\"} 1";
    assert!(running.app.expose_metrics().contains(failed));
    kms.turns(Mood::Works);
    running.app.keys.rotate("ops".to_owned()).await.expect("rotates");
    assert!(running.app.readiness().detail.is_empty());
    everything_verifies(&running.app).await;
}

#[tokio::test]
async fn a_version_that_does_not_sign_never_takes_over_and_no_second_one_is_made_for_it() {
    let data = tempfile::tempdir().expect("a directory");
    let kms = MoodyKms::open(data.path());
    let running = start_with(&kms, data.path()).await;
    kms.turns(Mood::DoesNotSign("v2"));
    let error = running
        .app
        .keys
        .rotate("ops".to_owned())
        .await
        .expect_err("refused");
    assert!(matches!(error, RotateError::Log(_)), "{error}");
    everything_verifies(&running.app).await;
    assert_eq!(running.app.log.active_key().version, "v1");
    kms.turns(Mood::Works);
    let key = running.app.keys.rotate("ops".to_owned()).await.expect("finishes");
    assert_eq!(key.version, "v2");
    everything_verifies(&running.app).await;
}

#[tokio::test]
async fn a_version_that_was_made_at_the_provider_waits_until_somebody_lets_it_sign() {
    let data = tempfile::tempdir().expect("a directory");
    let kms = MoodyKms::open(data.path());
    let running = start_with(&kms, data.path()).await;
    everything_verifies(&running.app).await;
    running.end(data.path(), Ending::Orderly).await;
    kms.kms.rotate_key().await.expect("a version");
    let running = start_with(&kms, data.path()).await;
    // The rotator's first look comes at once.
    while running.app.readiness().detail.is_empty() {
        tokio::task::yield_now().await;
    }
    let detail = running.app.readiness().detail;
    assert!(
        detail[0].contains("waits at its provider") && !detail[0].contains("v2"),
        "{detail:?}"
    );
    let told = running.app.keys.set().rotation.trouble.expect("told");
    assert!(told.contains("v2"), "{told}");
    assert_eq!(keys(&running.app), ["v1 active"]);
    let key = running
        .app
        .keys
        .rotate("ops".to_owned())
        .await
        .expect("takes over");
    assert_eq!(key.version, "v2", "and no third one is made");
    assert!(running.app.readiness().detail.is_empty());
    everything_verifies(&running.app).await;
}

#[tokio::test]
async fn rotations_that_were_asked_for_at_once_are_one() {
    let data = tempfile::tempdir().expect("a directory");
    let running = start_with(&MoodyKms::open(data.path()), data.path()).await;
    let ask = |who: &str| running.app.keys.rotate(who.to_owned());
    let (one, two, three) = tokio::join!(ask("a"), ask("b"), ask("c"));
    for key in [one, two, three] {
        assert_eq!(key.expect("rotates").version, "v2");
    }
    everything_verifies(&running.app).await;
}

#[tokio::test]
async fn another_key_under_the_same_version_signs_nothing_and_is_named() {
    let (data, other) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let running = start_with(&MoodyKms::open(data.path()), data.path()).await;
    everything_verifies(&running.app).await;
    running.end(data.path(), Ending::Orderly).await;
    let running = start_with(&MoodyKms::open(other.path()), data.path()).await;
    running
        .app
        .keys
        .rotate("ops".to_owned())
        .await
        .expect_err("the old key is away");
    let error = running.app.log.flush_now().await.expect_err("it does not sign");
    assert!(
        error
            .to_string()
            .contains("another key answers to the version v1"),
        "{error}"
    );
    let detail = running.app.readiness().detail.join(" ");
    assert!(detail.contains("(other_key)"), "{detail}");
}

#[tokio::test]
async fn a_log_is_not_continued_with_another_provider() {
    let data = tempfile::tempdir().expect("a directory");
    let running = start_with(&MoodyKms::open(data.path()), data.path()).await;
    running.end(data.path(), Ending::Orderly).await;
    let text = format!(
        "region: eu-west-1\ndata: {}\nkms: {{ provider: vault, address: 'http://127.0.0.1:1', key_name: k }}",
        data.path().display()
    );
    let config = Config::parse(&text).expect("valid");
    let storage = Arc::new(DiskStorage::open(data.path()).expect("a directory"));
    let error = super::open_on(&config, storage, MoodyKms::open(data.path()))
        .await
        .err()
        .expect("refused");
    assert!(error.to_string().starts_with("kms.provider: "), "{error}");
}

#[tokio::test]
async fn a_version_that_signed_before_does_not_come_back() {
    let data = tempfile::tempdir().expect("a directory");
    let kms = MoodyKms::open(data.path());
    let running = start_with(&kms, data.path()).await;
    running.app.keys.rotate("ops".to_owned()).await.expect("rotates");
    everything_verifies(&running.app).await;
    kms.turns(Mood::PointsTo("v1"));
    let error = running
        .app
        .keys
        .rotate("ops".to_owned())
        .await
        .expect_err("refused");
    assert_eq!(error.label(), "used_before");
    assert_eq!(keys(&running.app), ["v1 retired", "v2 active"]);
}
