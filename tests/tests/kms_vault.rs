//! Vault against Vault's own Transit engine: what every provider must do, and what is Vault's alone.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{Method, StatusCode};
use knhk_kms::conformance::{self, FaultyPeer};
use knhk_kms::testing::{self, TestTime};
use knhk_kms::vault::{VaultConfig, VaultKms};
use knhk_kms::{KeyVersion, Kms, Time};
use knhk_tests::peer::fault::{FOR_EVER, Fault};
use knhk_tests::peer::vault::{self, KEY, MOUNT, Vault};
use serde_json::json;

async fn started() -> Vault {
    Vault::start().await.unwrap_or_else(|not_run| panic!("{not_run}"))
}

fn config(vault: &Vault) -> VaultConfig {
    VaultConfig {
        address: Some(vault.address()),
        key_name: KEY.to_owned(),
        ..VaultConfig::default()
    }
}

/// A client with the token that has the policy of docs/kms.md.
fn client(vault: &Vault, time: Arc<dyn Time>) -> VaultKms {
    connect(&config(vault), time, vault.token())
}

fn connect(config: &VaultConfig, time: Arc<dyn Time>, token: &str) -> VaultKms {
    VaultKms::connect(config, testing::env(time, &[("VAULT_TOKEN", token)])).expect("a good configuration")
}

fn version(name: &str) -> KeyVersion {
    KeyVersion::new(name).expect("a good name")
}

#[tokio::test]
async fn vault_does_what_every_provider_must() {
    let vault = started().await;
    let kms = client(&vault, TestTime::new());
    conformance::happy(&kms, &version("v4000000000"), vault.directory()).await;
    let metadata = kms.key_metadata().await.expect("metadata");
    assert_eq!(metadata.id, format!("{MOUNT}/keys/{KEY}"));
    assert_eq!((metadata.provider, metadata.region), ("vault", None));
}

#[tokio::test]
async fn vaults_faults_are_typed_and_only_what_heals_is_tried_again() {
    let vault = started().await;
    vault.make_key("wrong", "ed25519").await.expect("another key");
    vault
        .arrange("tokens/wrong-keys-token", "")
        .await
        .expect("a token");
    conformance::faults(&mut Peer { vault }).await;
}

struct Peer {
    vault: Vault,
}

impl Peer {
    fn refuse(&self, times: u32, status: StatusCode, words: &str) {
        self.vault
            .faults()
            .plan(vault::signs, times, vault::refusal(status, words));
    }

    fn edit(&self, edit: impl Fn(Bytes) -> Bytes + Send + Sync + 'static) {
        self.vault
            .faults()
            .plan(vault::signs, FOR_EVER, Fault::Edit(Arc::new(edit)));
    }

    async fn configure(&self, body: serde_json::Value) {
        let path = format!("keys/{KEY}/config");
        self.vault
            .operate(Method::POST, &path, &body)
            .await
            .expect("the key's configuration");
    }
}

#[async_trait]
impl FaultyPeer for Peer {
    fn connect(&self, time: Arc<dyn Time>) -> Box<dyn Kms> {
        Box::new(client(&self.vault, time))
    }

    async fn connect_to_wrong_type(&self, time: Arc<dyn Time>) -> Box<dyn Kms> {
        let config = VaultConfig {
            key_name: "wrong".to_owned(),
            ..config(&self.vault)
        };
        Box::new(connect(&config, time, "wrong-keys-token"))
    }

    fn signs_asked(&self) -> u64 {
        self.vault.faults().seen()
    }

    fn secret(&self) -> String {
        self.vault.token().to_owned()
    }

    fn throttle(&self, times: u32) {
        let words = format!("request path \"{MOUNT}/sign/{KEY}/sha2-256\": rate limit quota exceeded");
        self.refuse(times, StatusCode::TOO_MANY_REQUESTS, &words);
    }

    fn forbid(&self) {
        let words = "1 error occurred:\n\t* permission denied\n\n";
        self.refuse(FOR_EVER, StatusCode::FORBIDDEN, words);
    }

    fn hold(&self) {
        self.vault.faults().plan(vault::signs, FOR_EVER, Fault::Hold);
    }

    async fn held(&self) {
        self.vault.faults().held().await;
    }

    fn fail(&self) {
        let words = "1 error occurred:\n\t* internal error\n\n";
        self.refuse(FOR_EVER, StatusCode::INTERNAL_SERVER_ERROR, words);
    }

    fn answer_as_another_version(&self) {
        self.edit(|body| {
            let text = String::from_utf8(body.to_vec()).expect("JSON");
            let (head, tail) = text.split_once("vault:v").expect("a signature");
            let (_, tail) = tail.split_once(':').expect("a signature");
            Bytes::from(format!("{head}vault:v77:{tail}"))
        });
    }

    fn answer_nonsense(&self) {
        self.edit(|_| Bytes::from_static(b"<html>welcome</html>"));
    }

    fn heal(&self) {
        self.vault.faults().heal();
    }

    async fn leave(&mut self) {
        self.vault.proxy().go().await;
    }

    async fn come_back(&mut self) {
        self.vault.proxy().come_back().expect("listens again");
    }

    /// Transit switches off all versions below one, so there has to be a newer one.
    async fn disable_key(&mut self) -> KeyVersion {
        let path = format!("keys/{KEY}/rotate");
        self.vault
            .operate(Method::POST, &path, &json!({}))
            .await
            .expect("rotates");
        self.configure(json!({ "min_encryption_version": 2 })).await;
        version("v1")
    }

    async fn enable_key(&mut self) {
        self.configure(json!({ "min_encryption_version": 0 })).await;
    }

    async fn delete_key(&mut self) {
        self.configure(json!({ "deletion_allowed": true })).await;
        self.vault
            .operate(Method::DELETE, &format!("keys/{KEY}"), &json!({}))
            .await
            .expect("deletes");
    }
}

/// A test that counts rotations.
struct Rotation {
    vault: Vault,
    time: Arc<TestTime>,
    kms: VaultKms,
}

impl Rotation {
    async fn begin() -> Self {
        let vault = started().await;
        let time = TestTime::new();
        let kms = client(&vault, time.clone());
        Self { vault, time, kms }
    }

    /// The names of the versions that Vault has.
    async fn versions(&self) -> Vec<String> {
        let metadata = self.kms.key_metadata().await.expect("metadata");
        let names = metadata.versions.iter().map(|info| info.version.to_string());
        names.collect()
    }
}

#[tokio::test]
async fn a_rotation_whose_answer_is_lost_makes_one_version() {
    let test = Rotation::begin().await;
    test.vault.faults().plan(vault::rotates, 1, Fault::LoseAnswer);
    let rotated = test.kms.rotate_key().await.expect("the version is found");
    assert_eq!(rotated.as_str(), "v2");
    assert_eq!(test.versions().await, ["v1", "v2"]);
}

#[tokio::test]
async fn a_rotation_that_never_arrived_is_not_sent_twice_in_one_call_and_a_later_call_sends_it() {
    let test = Rotation::begin().await;
    test.vault.faults().plan(vault::rotates, 1, Fault::Hold);
    let expire = async {
        test.vault.faults().held().await;
        test.time.expire();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        rotated = test.kms.rotate_key() => rotated.expect_err("nobody answered"),
        () = expire => unreachable!("it is pending"),
    };
    assert_eq!(error.label(), "unreachable", "{error}");
    assert!(error.to_string().contains("v1 is still the newest"), "{error}");
    assert_eq!(
        test.versions().await,
        ["v1"],
        "it was held once and not sent again"
    );
    assert_eq!(test.kms.rotate_key().await.expect("rotates").as_str(), "v2");
    assert_eq!(test.versions().await, ["v1", "v2"]);
}

#[tokio::test]
async fn a_rotation_that_vault_finishes_late_is_found_by_the_next_call() {
    let test = Rotation::begin().await;
    test.vault.faults().plan(vault::rotates, 1, Fault::Hold);
    let expire = async {
        test.vault.faults().held().await;
        test.time.expire();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        rotated = test.kms.rotate_key() => drop(rotated.expect_err("nobody answered")),
        () = expire => unreachable!("it is pending"),
    }
    // What was held reaches Vault after all.
    let path = format!("keys/{KEY}/rotate");
    let late = test.vault.operate(Method::POST, &path, &json!({})).await;
    late.expect("rotates");
    assert_eq!(test.kms.rotate_key().await.expect("found").as_str(), "v2");
    assert_eq!(test.versions().await, ["v1", "v2"]);
    assert_eq!(test.kms.rotate_key().await.expect("rotates").as_str(), "v3");
}

#[tokio::test]
async fn a_rotation_is_sent_again_after_an_answer_that_says_it_was_not_made() {
    let test = Rotation::begin().await;
    let busy = vault::refusal(StatusCode::TOO_MANY_REQUESTS, "rate limit quota exceeded");
    test.vault.faults().plan(vault::rotates, 2, busy);
    let sealed = vault::refusal(StatusCode::SERVICE_UNAVAILABLE, "Vault is sealed");
    test.vault.faults().plan(vault::rotates, 1, sealed);
    assert_eq!(test.kms.rotate_key().await.expect("rotates").as_str(), "v2");
    assert_eq!(test.versions().await, ["v1", "v2"]);
}

#[tokio::test]
async fn rotations_at_once_make_a_version_each() {
    let test = Rotation::begin().await;
    let (one, other) = tokio::join!(test.kms.rotate_key(), test.kms.rotate_key());
    let mut made = [
        one.expect("rotates").to_string(),
        other.expect("rotates").to_string(),
    ];
    made.sort();
    assert_eq!(made, ["v2", "v3"]);
}

#[tokio::test]
async fn a_token_without_the_rule_to_rotate_signs_and_cannot_rotate() {
    let vault = started().await;
    let policy = format!(
        "path \"{MOUNT}/keys/{KEY}\" {{ capabilities = [\"read\"] }}\npath \"{MOUNT}/sign/{KEY}/*\" {{ capabilities = [\"update\"] }}"
    );
    vault
        .arrange("tokens/signs-only", &policy)
        .await
        .expect("a token");
    let kms = connect(&config(&vault), TestTime::new(), "signs-only");
    let current = kms.current().await.expect("reads");
    kms.sign(&current, &[1; 32]).await.expect("signs");
    let error = kms.rotate_key().await.expect_err("may not");
    assert_eq!(error.label(), "forbidden", "{error}");
    assert_eq!(kms.current().await.expect("reads"), current);
}

#[tokio::test]
async fn an_unknown_token_is_unauthenticated_and_no_token_is_said_before_anything_is_sent() {
    let vault = started().await;
    let kms = connect(&config(&vault), TestTime::new(), "unknown-token");
    let error = kms.current().await.expect_err("unknown");
    assert_eq!(error.label(), "unauthenticated", "{error}");
    let kms = connect(&config(&vault), TestTime::new(), "");
    let error = kms.sign(&version("v1"), &[1; 32]).await.expect_err("no token");
    assert_eq!(error.label(), "unauthenticated", "{error}");
    assert!(
        error.to_string().contains("kms.token_file") && error.to_string().contains("VAULT_TOKEN"),
        "{error}"
    );
    assert_eq!(vault.faults().seen(), 0);
}

/// A token file and a client that reads it.
fn with_token_file(vault: &Vault) -> (PathBuf, VaultKms) {
    let file = vault.directory().join("token");
    let config = VaultConfig {
        token_file: Some(file.clone()),
        ..config(vault)
    };
    (file, connect(&config, TestTime::new(), "not-used"))
}

#[tokio::test]
async fn a_token_file_is_read_when_it_comes_when_it_changes_and_when_it_is_replaced() {
    let vault = started().await;
    let (file, kms) = with_token_file(&vault);
    let error = kms.current().await.expect_err("there is no file yet");
    assert_eq!(error.label(), "unauthenticated", "{error}");
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    std::fs::write(&file, format!("{}\n", vault.token())).expect("writes");
    kms.current().await.expect("the file has come");

    vault
        .arrange("tokens/the-second-token", "")
        .await
        .expect("a token");
    vault.revoke(vault.token()).await.expect("revoked");
    std::fs::write(&file, "the-second-token").expect("writes");
    kms.current().await.expect("the file has changed");

    vault
        .arrange("tokens/the-third1-token", "")
        .await
        .expect("a token");
    vault.revoke("the-second-token").await.expect("revoked");
    let new = file.with_extension("new");
    std::fs::write(&new, "the-third1-token").expect("writes");
    std::fs::rename(&new, &file).expect("renames");
    kms.current().await.expect("the file was replaced");

    std::fs::write(&file, "").expect("writes");
    let error = kms.current().await.expect_err("it is empty");
    assert_eq!(error.label(), "unauthenticated", "{error}");
}

#[tokio::test]
async fn a_refused_token_makes_a_file_that_looks_unchanged_be_read_once_more() {
    let vault = started().await;
    let (file, kms) = with_token_file(&vault);
    vault.arrange("tokens/aaaa", "").await.expect("a token");
    std::fs::write(&file, "aaaa").expect("writes");
    let stamp = std::fs::metadata(&file)
        .and_then(|metadata| metadata.modified())
        .expect("a time");
    kms.current().await.expect("the first token");
    vault.arrange("tokens/bbbb", "").await.expect("a token");
    vault.revoke("aaaa").await.expect("revoked");
    // The same inode, size and time.
    std::fs::write(&file, "bbbb").expect("writes");
    std::fs::File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_modified(stamp))
        .expect("sets the time back");
    kms.current().await.expect("the second token");
    vault.revoke("bbbb").await.expect("revoked");
    let error = kms.current().await.expect_err("no token is good");
    assert_eq!(error.label(), "unauthenticated", "{error}");
    let text = format!("{error} {kms:?}");
    assert!(!text.contains("bbbb") && !text.contains("aaaa"), "{text}");
}

#[tokio::test]
async fn a_namespace_and_a_deep_mount_are_found_and_another_namespace_is_not() {
    let vault = started().await;
    vault
        .arrange_in("platform/keys", "mounts/deep/transit-2", "")
        .await
        .expect("a mount");
    vault.arrange("tokens/any", "").await.expect("a token");
    let deep = VaultConfig {
        mount: "deep/transit-2".to_owned(),
        namespace: Some("platform/keys".to_owned()),
        ..config(&vault)
    };
    let kms = connect(&deep, TestTime::new(), "any");
    let error = kms.current().await.expect_err("there is no key yet");
    assert_eq!(error.label(), "key_missing", "{error}");
    assert!(
        !error.to_string().contains("no handler"),
        "the mount is found: {error}"
    );
    let elsewhere = VaultConfig {
        namespace: None,
        ..deep
    };
    let error = connect(&elsewhere, TestTime::new(), "any")
        .current()
        .await
        .expect_err("there is no such mount outside the namespace");
    assert!(error.to_string().contains("no handler"), "{error}");
}

#[tokio::test]
async fn tls_trusts_the_authority_of_the_configuration_or_the_environment_and_no_other() {
    let vault = Vault::start_with_tls()
        .await
        .unwrap_or_else(|not_run| panic!("{not_run}"));
    let authority = vault.authority().expect("it speaks TLS").to_owned();
    let plain = VaultConfig {
        address: Some(vault.direct()),
        ..config(&vault)
    };
    let by_config = VaultConfig {
        ca_file: Some(authority.clone()),
        ..plain.clone()
    };
    let kms = connect(&by_config, TestTime::new(), vault.token());
    let current = kms.current().await.expect("trusted");
    kms.sign(&current, &[1; 32]).await.expect("signs");

    let variables = [
        ("VAULT_ADDR", vault.direct()),
        ("VAULT_TOKEN", vault.token().to_owned()),
        ("VAULT_CACERT", authority.display().to_string()),
    ];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let by_environment = VaultConfig {
        address: None,
        ..config(&vault)
    };
    let kms = VaultKms::connect(&by_environment, testing::env(TestTime::new(), &variables)).expect("good");
    assert_eq!(kms.current().await.expect("trusted"), current);

    // The system's authorities know nothing of this one.
    let error = connect(&plain, TestTime::new(), vault.token())
        .current()
        .await
        .expect_err("not trusted");
    assert_eq!(error.label(), "tls", "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

#[tokio::test]
async fn a_key_made_anew_under_the_same_name_does_not_sign_as_the_old_one() {
    let vault = started().await;
    let kms = client(&vault, TestTime::new());
    let current = kms.current().await.expect("a version");
    kms.sign(&current, &[1; 32]).await.expect("signs");
    let (key, config) = (format!("keys/{KEY}"), format!("keys/{KEY}/config"));
    let allowed = json!({ "deletion_allowed": true });
    vault
        .operate(Method::POST, &config, &allowed)
        .await
        .expect("allows");
    vault
        .operate(Method::DELETE, &key, &json!({}))
        .await
        .expect("deletes");
    vault.make_key(KEY, "ecdsa-p256").await.expect("another key");
    let error = kms.sign(&current, &[1; 32]).await.expect_err("it is another key");
    assert_eq!(error.label(), "malformed_answer", "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let vault = started().await;
    let kms = client(&vault, TestTime::new());
    let endless = Bytes::from(vec![b' '; knhk_kms::vault::MAX_ANSWER_BYTES + 1]);
    vault.faults().plan(
        |_| true,
        FOR_EVER,
        Fault::Edit(Arc::new(move |_| endless.clone())),
    );
    let error = kms.current().await.expect_err("too long");
    assert_eq!(error.label(), "malformed_answer", "{error}");
}
