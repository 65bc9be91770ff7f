//! A peer that does not work: each fault is a typed error with its label, and is tried again only where that can help.

use std::sync::Arc;

use async_trait::async_trait;

use crate::retry::CALL_DEADLINE;
use crate::testing::TestTime;
use crate::{KeyVersion, Kms, KmsError, Time};

/// A peer with one key, and what can be wrong with it.
///
/// Faults of the network and the server meet the requests that sign. They last until [`FaultyPeer::heal`].
#[async_trait]
pub trait FaultyPeer: Send + Sync {
    /// A new client of the peer's key, with this time. It has no other limits of time.
    fn connect(&self, time: Arc<dyn Time>) -> Box<dyn Kms>;

    /// A new client of a key of another type, which can sign too if the provider has such keys.
    async fn connect_to_wrong_type(&self, time: Arc<dyn Time>) -> Box<dyn Kms>;

    /// How many requests to sign have come, those included that met a fault.
    fn signs_asked(&self) -> u64;

    /// The client's credential, which no error may show.
    fn secret(&self) -> String;

    /// The next `times` requests are too many for the provider.
    fn throttle(&self, times: u32);

    /// The credential may not sign.
    fn forbid(&self);

    /// Requests are taken and not answered.
    fn hold(&self);

    /// Returns when one more request is held.
    async fn held(&self);

    /// The provider answers with its own failure.
    fn fail(&self);

    /// The answers name another version than the one that was asked for.
    fn answer_as_another_version(&self);

    /// The answers are no answers of the provider.
    fn answer_nonsense(&self);

    /// Ends what the methods above have begun.
    fn heal(&self);

    /// Nobody listens at the provider's address, and connections that were open are closed.
    async fn leave(&mut self);

    /// The opposite of [`FaultyPeer::leave`].
    async fn come_back(&mut self);

    /// Switches the key, or one version of it, off, and names a version that does not sign now.
    async fn disable_key(&mut self) -> KeyVersion;

    /// The opposite of [`FaultyPeer::disable_key`].
    async fn enable_key(&mut self);

    /// Deletes the key for good.
    async fn delete_key(&mut self);
}

/// Runs the whole suite. The key is gone at its end.
pub async fn faults(peer: &mut dyn FaultyPeer) {
    throttled_then_fine(peer).await;
    throttled_for_ever(peer).await;
    provider_fails(peer).await;
    forbidden(peer).await;
    slow(peer).await;
    gone(peer).await;
    wrong_type(peer).await;
    another_version(peer).await;
    nonsense(peer).await;
    disabled(peer).await;
    missing(peer).await;
}

/// A client that has signed once, so that it holds what it needs, and what it then did.
struct Trial {
    kms: Box<dyn Kms>,
    time: Arc<TestTime>,
    version: KeyVersion,
}

/// How an attempt to sign ended, and how often the peer was asked for it.
struct Outcome {
    error: KmsError,
    asked: u64,
}

impl Trial {
    async fn of(peer: &dyn FaultyPeer) -> Self {
        let time = TestTime::new();
        let kms = peer.connect(time.clone());
        let version = kms.current().await.expect("a current version");
        let trial = Self { kms, time, version };
        trial.signs().await;
        trial
    }

    async fn signs(&self) {
        let signature = self.kms.sign(&self.version, &[9; 32]).await.expect("it signs");
        let public = self.kms.public_key(&self.version).await.expect("a public key");
        assert!(public.verifies(&[9; 32], &signature), "the signature verifies");
    }

    /// Signs with this version and expects an error in one line without the secret, within the deadline.
    async fn fails_with(&self, peer: &dyn FaultyPeer, version: &KeyVersion) -> Outcome {
        let (before, start) = (peer.signs_asked(), self.time.now());
        let error = self
            .kms
            .sign(version, &[9; 32])
            .await
            .expect_err("the peer does not sign");
        let text = error.to_string();
        assert!(!text.contains(['\n', '\r']), "{text}");
        assert!(!text.contains(&peer.secret()), "the error shows the credential");
        let took = self.time.now().saturating_sub(start);
        assert!(took <= CALL_DEADLINE, "it took {took:?}");
        Outcome {
            error,
            asked: peer.signs_asked() - before,
        }
    }

    async fn fails(&self, peer: &dyn FaultyPeer) -> Outcome {
        self.fails_with(peer, &self.version).await
    }
}

impl Outcome {
    fn once(&self, label: &str) {
        assert_eq!(self.error.label(), label, "{}", self.error);
        assert_eq!(
            self.asked, 1,
            "{}: trying again does not help, and it was tried {} times",
            self.error, self.asked
        );
    }

    fn repeatedly(&self, label: &str, at_least: u64) {
        assert_eq!(self.error.label(), label, "{}", self.error);
        assert!(
            self.asked >= at_least,
            "{}: trying again may help, and it was tried {} times only",
            self.error,
            self.asked
        );
    }
}

async fn throttled_then_fine(peer: &dyn FaultyPeer) {
    let trial = Trial::of(peer).await;
    let before = peer.signs_asked();
    peer.throttle(3);
    trial.signs().await;
    assert_eq!(peer.signs_asked() - before, 4, "three were refused, one was not");
    peer.heal();
}

async fn throttled_for_ever(peer: &dyn FaultyPeer) {
    let trial = Trial::of(peer).await;
    peer.throttle(u32::MAX);
    trial.fails(peer).await.repeatedly("throttled", 8);
    peer.heal();
    trial.signs().await;
}

async fn provider_fails(peer: &dyn FaultyPeer) {
    let trial = Trial::of(peer).await;
    peer.fail();
    trial.fails(peer).await.repeatedly("provider", 8);
    peer.heal();
    trial.signs().await;
}

async fn forbidden(peer: &dyn FaultyPeer) {
    let trial = Trial::of(peer).await;
    peer.forbid();
    trial.fails(peer).await.once("forbidden");
    peer.heal();
    trial.signs().await;
}

async fn slow(peer: &dyn FaultyPeer) {
    let trial = Trial::of(peer).await;
    peer.hold();
    let expire = async {
        loop {
            peer.held().await;
            trial.time.expire();
        }
    };
    tokio::select! {
        outcome = trial.fails(peer) => outcome.repeatedly("timeout", 2),
        () = expire => {}
    }
    peer.heal();
    trial.signs().await;
}

async fn gone(peer: &mut dyn FaultyPeer) {
    let trial = Trial::of(peer).await;
    peer.leave().await;
    let outcome = trial.fails(peer).await;
    assert_eq!(outcome.error.label(), "unreachable", "{}", outcome.error);
    let gave_up = matches!(outcome.error, KmsError::GaveUp { attempts, .. } if attempts >= 8);
    assert!(gave_up, "trying again may help: {}", outcome.error);
    let error = trial.kms.current().await.expect_err("nobody is there");
    assert_eq!(error.label(), "unreachable", "{error}");
    peer.come_back().await;
    trial.signs().await;
}

async fn wrong_type(peer: &dyn FaultyPeer) {
    let kms = peer.connect_to_wrong_type(TestTime::new()).await;
    let version = match kms.current().await {
        // A provider whose list of versions has no types tells it where a version is used.
        Ok(version) => version,
        Err(error) => {
            assert_eq!(error.label(), "wrong_key_type", "{error}");
            let good = peer.connect(TestTime::new());
            good.current().await.expect("a current version")
        }
    };
    let error = kms.public_key(&version).await.expect_err("another type");
    assert_eq!(error.label(), "wrong_key_type", "{error}");
    let error = kms.sign(&version, &[9; 32]).await.expect_err("another type");
    assert_eq!(error.label(), "wrong_key_type", "{error}");
}

async fn another_version(peer: &dyn FaultyPeer) {
    let trial = Trial::of(peer).await;
    peer.answer_as_another_version();
    trial.fails(peer).await.once("other_version");
    peer.heal();
    trial.signs().await;
}

async fn nonsense(peer: &dyn FaultyPeer) {
    let trial = Trial::of(peer).await;
    peer.answer_nonsense();
    trial.fails(peer).await.once("malformed_answer");
    peer.heal();
    trial.signs().await;
}

async fn disabled(peer: &mut dyn FaultyPeer) {
    let trial = Trial::of(peer).await;
    let version = peer.disable_key().await;
    trial.fails_with(peer, &version).await.once("key_disabled");
    peer.enable_key().await;
    let kms = peer.connect(TestTime::new());
    kms.sign(&version, &[9; 32]).await.expect("it is enabled again");
}

async fn missing(peer: &mut dyn FaultyPeer) {
    let trial = Trial::of(peer).await;
    peer.delete_key().await;
    trial.fails(peer).await.once("key_missing");
    let error = trial.kms.current().await.expect_err("there is no key");
    assert_eq!(error.label(), "key_missing", "{error}");
}
