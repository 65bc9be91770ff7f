//! Azure Key Vault against the stand-in: what every provider must do, what is Azure's alone, and Microsoft's own client.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::StatusCode;
use knhk_kms::azure::{AzureConfig, AzureKms, MAX_ANSWER_BYTES};
use knhk_kms::conformance::{self, FaultyPeer};
use knhk_kms::testing::{self, TestTime};
use knhk_kms::{KeyVersion, Kms, KmsError, Signature, Time};
use knhk_tests::artifacts;
use knhk_tests::peer::azure::{self, Azure};
use knhk_tests::peer::fault::{Answer, Asked, FOR_EVER, Fault};
use knhk_tests::peer::keyvault::{Enabled, Kind};
use serde_json::{Value, json};

const UNKNOWN: &str = "00000000000000000000000000000000";

async fn started() -> Azure {
    Azure::start().await.unwrap_or_else(|not_run| panic!("{not_run}"))
}

fn config(azure: &Azure) -> AzureConfig {
    AzureConfig {
        vault_url: azure.vault.url(),
        key_name: Azure::KEY.to_owned(),
        ca_file: Some(azure.ca_file()),
        authority: None,
    }
}

fn connect(config: &AzureConfig, time: Arc<dyn Time>, variables: &[(String, String)]) -> AzureKms {
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    AzureKms::connect(config, testing::env(time, &variables)).expect("a good configuration")
}

fn client(azure: &Azure, time: Arc<dyn Time>) -> AzureKms {
    connect(&config(azure), time, &azure.environment())
}

fn version(name: &str) -> KeyVersion {
    KeyVersion::new(name).expect("a good name")
}

fn versions(azure: &Azure) -> Vec<String> {
    azure.vault.with_vault(|vault| vault.versions(Azure::KEY))
}

fn refusal(status: u16, code: &str, inner: &str) -> Fault {
    let body = json!({ "error": {
        "code": code, "message": "because of a test", "innererror": { "code": inner },
    } });
    Fault::Answer(Answer {
        status: StatusCode::from_u16(status).expect("a status"),
        body: Bytes::from(body.to_string()),
    })
}

#[tokio::test]
async fn azure_does_what_every_provider_must() {
    let azure = started().await;
    let kms = client(&azure, TestTime::new());
    conformance::happy(&kms, &version(UNKNOWN), azure.scratch()).await;
    let metadata = kms.key_metadata().await.expect("metadata");
    assert_eq!(metadata.id, format!("{}/keys/{}", azure.vault.url(), Azure::KEY));
    assert_eq!((metadata.provider, metadata.region), ("azure", None));
}

#[tokio::test]
async fn azures_faults_are_typed_and_only_what_heals_is_tried_again() {
    let azure = started().await;
    azure
        .vault
        .with_vault(|vault| vault.create("rsa", Kind::Rsa, Duration::from_secs(1)));
    conformance::faults(&mut Peer { azure }).await;
}

struct Peer {
    azure: Azure,
}

impl Peer {
    fn plan(&self, times: u32, fault: Fault) {
        self.azure.vault.faults().plan(azure::is_sign, times, fault);
    }

    fn set(&self, enabled: Enabled) -> KeyVersion {
        let newest = versions(&self.azure).pop().expect("a version");
        self.azure
            .vault
            .with_vault(|vault| vault.set_enabled(Azure::KEY, &newest, enabled))
            .expect("it is there");
        version(&newest)
    }
}

#[async_trait]
impl FaultyPeer for Peer {
    fn connect(&self, time: Arc<dyn Time>) -> Box<dyn Kms> {
        Box::new(client(&self.azure, time))
    }

    async fn connect_to_wrong_type(&self, time: Arc<dyn Time>) -> Box<dyn Kms> {
        let config = AzureConfig {
            key_name: "rsa".to_owned(),
            ..config(&self.azure)
        };
        Box::new(connect(&config, time, &self.azure.environment()))
    }

    fn signs_asked(&self) -> u64 {
        self.azure.vault.faults().seen()
    }

    fn secret(&self) -> String {
        "knhk-tests-only".to_owned()
    }

    fn throttle(&self, times: u32) {
        self.plan(times, refusal(429, "Throttled", "VaultRequestTypeLimitReached"));
    }

    fn forbid(&self) {
        self.plan(FOR_EVER, refusal(403, "Forbidden", "ForbiddenByRbac"));
    }

    fn hold(&self) {
        self.plan(FOR_EVER, Fault::Hold);
    }

    async fn held(&self) {
        self.azure.vault.faults().held().await;
    }

    fn fail(&self) {
        self.plan(FOR_EVER, refusal(503, "ServiceUnavailable", ""));
    }

    fn answer_as_another_version(&self) {
        self.plan(
            FOR_EVER,
            Fault::Edit(Arc::new(|body| {
                let mut answer: Value = serde_json::from_slice(&body).expect("JSON");
                let kid = answer["kid"].as_str().expect("a kid");
                let (key, _) = kid.rsplit_once('/').expect("a version");
                answer["kid"] = format!("{key}/{UNKNOWN}").into();
                Bytes::from(answer.to_string())
            })),
        );
    }

    fn answer_nonsense(&self) {
        let nonsense = Fault::Edit(Arc::new(|_| Bytes::from_static(b"<html>welcome</html>")));
        self.plan(FOR_EVER, nonsense);
    }

    fn heal(&self) {
        self.azure.vault.faults().heal();
    }

    async fn leave(&mut self) {
        self.azure.vault.go().await;
    }

    async fn come_back(&mut self) {
        self.azure.vault.come_back().expect("listens again");
    }

    async fn disable_key(&mut self) -> KeyVersion {
        self.set(Enabled::No)
    }

    async fn enable_key(&mut self) {
        self.set(Enabled::Yes);
    }

    async fn delete_key(&mut self) {
        self.azure.vault.with_vault(|vault| vault.delete(Azure::KEY));
    }
}

#[tokio::test]
async fn microsofts_own_client_works_against_the_stand_in_and_knhk_verifies_what_it_signed() {
    let azure = started().await;
    let interpreter = azure::python().unwrap_or_else(|not_run| panic!("{not_run}"));
    let output = tokio::task::spawn_blocking({
        let mut command = Command::new(interpreter);
        command
            .arg(artifacts::root().join("tests/peers/azure/client.py"))
            .envs(azure.environment())
            .env("VAULT_URL", azure.vault.url())
            .env("AUTHORITY", azure.vault.url())
            .env("CA_FILE", azure.ca_file())
            .env("NO_PROXY", "127.0.0.1");
        move || command.output()
    })
    .await
    .expect("it runs")
    .expect("the interpreter starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |field: &str| said[field].as_str().unwrap_or_default().to_owned();

    let config = AzureConfig {
        key_name: text("name"),
        ..config(&azure)
    };
    let kms = connect(&config, TestTime::new(), &azure.environment());
    let public = kms.public_key(&version(&text("version"))).await.expect("its key");
    let signature = Signature::from_raw(&bytes(&text("signature"))).expect("r || s");
    assert!(public.verifies(&bytes(&text("digest")), &signature));
    let metadata = kms.key_metadata().await.expect("metadata");
    assert_eq!(json!(metadata.versions.len()), said["versions"]);
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal");
    assert_eq!(hex.len(), 2 * N);
    std::array::from_fn(byte)
}

fn rotates(asked: &Asked) -> bool {
    asked.uri.path().ends_with("/rotate")
}

#[tokio::test]
async fn a_rotation_whose_answer_is_lost_makes_one_version() {
    let azure = started().await;
    let kms = client(&azure, TestTime::new());
    azure.vault.faults().plan(rotates, 1, Fault::LoseAnswer);
    let new = kms.rotate_key().await.expect("the version is found");
    assert_eq!(versions(&azure).len(), 2, "one version was made");
    assert_eq!(versions(&azure).pop().as_deref(), Some(new.as_str()));
}

#[tokio::test]
async fn a_rotation_that_never_arrived_is_not_sent_twice_in_one_call_and_a_later_call_sends_it() {
    let azure = started().await;
    let time = TestTime::new();
    let kms = client(&azure, time.clone());
    azure.vault.faults().plan(rotates, 1, Fault::Hold);
    let expire = async {
        azure.vault.faults().held().await;
        time.expire();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        rotated = kms.rotate_key() => rotated.expect_err("nobody answered"),
        () = expire => unreachable!("it is pending"),
    };
    assert_eq!(error.label(), "unreachable", "{error}");
    assert_eq!(versions(&azure).len(), 1, "it was held once and not sent again");
    let new = kms.rotate_key().await.expect("rotates");
    assert_eq!(versions(&azure).len(), 2);
    assert_eq!(kms.current().await.expect("the new one"), new);
}

#[tokio::test]
async fn a_rotation_is_sent_again_after_an_answer_that_says_it_was_not_made() {
    let azure = started().await;
    let kms = client(&azure, TestTime::new());
    let busy = refusal(429, "Throttled", "VaultRequestTypeLimitReached");
    azure.vault.faults().plan(rotates, 3, busy);
    kms.rotate_key().await.expect("rotates");
    let forbidden = refusal(403, "Forbidden", "ForbiddenByRbac");
    azure.vault.faults().plan(rotates, 1, forbidden);
    let error = kms.rotate_key().await.expect_err("may not");
    assert_eq!(error.label(), "forbidden", "{error}");
    kms.rotate_key().await.expect("may again");
    assert_eq!(versions(&azure).len(), 3);
}

#[tokio::test]
async fn rotations_at_once_make_a_version_each() {
    let azure = started().await;
    let kms = client(&azure, TestTime::new());
    let (one, other) = tokio::join!(kms.rotate_key(), kms.rotate_key());
    assert_ne!(one.expect("rotates"), other.expect("rotates"));
    assert_eq!(versions(&azure).len(), 3);
}

#[tokio::test]
async fn every_version_is_listed_over_several_pages_the_oldest_first() {
    let azure = started().await;
    azure.vault.with_vault(|vault| {
        for at in 1..60 {
            vault.create(Azure::KEY, Kind::Ec, Duration::from_secs(1_767_225_600 + at));
        }
    });
    let kms = client(&azure, TestTime::new());
    let metadata = kms.key_metadata().await.expect("metadata");
    let listed: Vec<String> = metadata
        .versions
        .iter()
        .map(|info| info.version.to_string())
        .collect();
    assert_eq!(listed, versions(&azure));
    assert_eq!(metadata.created_unix_ms, Some(1_767_225_600_000));
}

#[tokio::test]
async fn the_current_version_is_the_newest_that_is_enabled() {
    let azure = started().await;
    let kms = client(&azure, TestTime::new());
    let first = kms.current().await.expect("the only one");
    let second = kms.rotate_key().await.expect("rotates");
    let set = |version: &KeyVersion, enabled| {
        azure
            .vault
            .with_vault(|vault| vault.set_enabled(Azure::KEY, version.as_str(), enabled))
            .expect("it is there");
    };
    set(&second, Enabled::No);
    assert_eq!(kms.current().await.expect("the one before"), first);
    let metadata = kms.key_metadata().await.expect("metadata");
    assert_eq!(metadata.versions.last().map(|info| &info.version), Some(&first));
    set(&first, Enabled::No);
    let error = kms.current().await.expect_err("none is enabled");
    assert_eq!(error.label(), "key_disabled", "{error}");
}

/// A token that ends so soon is replaced by the SDK at its next use.
const ABOUT_TO_END: Duration = Duration::from_secs(60);

#[tokio::test]
async fn workload_identity_signs_and_a_token_that_ends_is_replaced() {
    let azure = started().await;
    azure.vault.set_token_lifetime(ABOUT_TO_END);
    let variables = azure.workload_environment().expect("a token file");
    let kms = connect(&config(&azure), TestTime::new(), &variables);
    let current = kms.current().await.expect("a version");
    conformance::signs_with_the_version_asked_for(&kms, &current).await;
    azure.vault.revoke_tokens();
    conformance::signs_with_the_version_asked_for(&kms, &current).await;
}

#[tokio::test]
async fn a_wrong_secret_is_unauthenticated_and_shown_to_nobody() {
    let azure = started().await;
    let mut variables = azure.environment();
    for (name, value) in &mut variables {
        if name == "AZURE_CLIENT_SECRET" {
            "wr0ng-secret".clone_into(value);
        }
    }
    let kms = connect(&config(&azure), TestTime::new(), &variables);
    let error = kms.current().await.expect_err("refused");
    assert_eq!(error.label(), "unauthenticated", "{error}");
    let text = error.to_string();
    assert!(text.contains("AADSTS7000215") && !text.contains('\n'), "{text}");
    assert!(
        !text.contains("wr0ng") && !format!("{error:?} {kms:?}").contains("wr0ng"),
        "{text}"
    );
}

#[tokio::test]
async fn an_authority_that_is_away_is_waited_for() {
    let azure = started().await;
    let kms = client(&azure, TestTime::new());
    let token: fn(&Asked) -> bool = |asked| asked.uri.path().ends_with("/oauth2/v2.0/token");
    azure.vault.faults().plan(token, 2, refusal(503, "", ""));
    azure.vault.faults().plan(token, 2, Fault::LoseAnswer);
    azure.vault.set_token_lifetime(ABOUT_TO_END);
    kms.current().await.expect("it comes back");
    azure.vault.revoke_tokens();
    azure.vault.faults().plan(token, FOR_EVER, refusal(503, "", ""));
    let error = kms.current().await.expect_err("it stays away");
    assert_eq!(error.label(), "provider", "{error}");
    assert!(matches!(error, KmsError::GaveUp { .. }), "{error}");
}

#[tokio::test]
async fn a_vault_whose_certificate_nobody_vouches_for_is_not_spoken_to() {
    let azure = started().await;
    let config = AzureConfig {
        ca_file: None,
        ..config(&azure)
    };
    let kms = connect(&config, TestTime::new(), &azure.environment());
    let error = kms.current().await.expect_err("not trusted");
    assert_eq!(error.label(), "tls", "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let azure = started().await;
    let kms = client(&azure, TestTime::new());
    let endless = Bytes::from(vec![b' '; MAX_ANSWER_BYTES + 1]);
    let edit = Fault::Edit(Arc::new(move |_| endless.clone()));
    azure.vault.faults().plan(azure::is_authorized, FOR_EVER, edit);
    let error = kms.current().await.expect_err("too long");
    assert_eq!(error.label(), "malformed_answer", "{error}");
}

#[tokio::test]
async fn a_signature_that_does_not_verify_is_not_given_out() {
    let azure = started().await;
    let kms = client(&azure, TestTime::new());
    let current = kms.current().await.expect("a version");
    let edit = Fault::Edit(Arc::new(|body| {
        let mut answer: Value = serde_json::from_slice(&body).expect("JSON");
        // In range, and over nothing.
        answer["value"] = URL_SAFE_NO_PAD.encode([1; 64]).into();
        Bytes::from(answer.to_string())
    }));
    azure.vault.faults().plan(azure::is_sign, 1, edit);
    let error = kms
        .sign(&current, &[9; 32])
        .await
        .expect_err("nobody signed that");
    assert_eq!(error.label(), "malformed_answer", "{error}");
    kms.sign(&current, &[9; 32]).await.expect("and now its own");
}
