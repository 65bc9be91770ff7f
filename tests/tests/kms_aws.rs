//! AWS KMS against moto: what every provider must do. Rotation is in `kms_aws_rotation.rs`.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use knhk_kms::aws::AwsKms;
use knhk_kms::conformance::{self, FaultyPeer};
use knhk_kms::testing::TestTime;
use knhk_kms::{KeyVersion, Kms, Time};
use knhk_tests::peer::aws::{self, Aws, REGION, SECRET, config, connect, id_of, refusal};
use knhk_tests::peer::fault::{FOR_EVER, Fault};
use serde_json::json;

/// No key has it.
const UNKNOWN: &str = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000";

async fn started() -> Aws {
    Aws::start().await.unwrap_or_else(|not_run| panic!("{not_run}"))
}

fn client(aws: &Aws, time: Arc<dyn Time>) -> AwsKms {
    let state = aws.scratch().join("state");
    connect(&config(Aws::ALIAS, &aws.proxy, &state), time)
}

fn version(name: &str) -> KeyVersion {
    KeyVersion::new(name).expect("a good name")
}

#[tokio::test]
async fn aws_does_what_every_provider_must() {
    let aws = started().await;
    let kms = client(&aws, TestTime::new());
    conformance::happy(&kms, &version(UNKNOWN), aws.scratch()).await;
    let metadata = kms.key_metadata().await.expect("metadata");
    assert_eq!(metadata.id, Aws::ALIAS);
    assert_eq!(
        (metadata.provider, metadata.region.as_deref()),
        ("aws", Some(REGION))
    );
    let arns: Vec<&str> = metadata
        .versions
        .iter()
        .map(|info| info.version.as_str())
        .collect();
    assert_eq!(arns.last().copied(), Some(aws.target(Aws::ALIAS).await.as_str()));
    assert!(!format!("{kms:?}").contains(SECRET));
}

#[tokio::test]
async fn awss_faults_are_typed_and_only_what_heals_is_tried_again() {
    let aws = started().await;
    let p384 = aws.create_key("ECC_NIST_P384").await;
    conformance::faults(&mut Peer { aws, p384 }).await;
}

struct Peer {
    aws: Aws,
    p384: String,
}

impl Peer {
    fn plan(&self, times: u32, fault: Fault) {
        self.aws.proxy.faults().plan(aws::is_sign, times, fault);
    }
}

#[async_trait]
impl FaultyPeer for Peer {
    fn connect(&self, time: Arc<dyn Time>) -> Box<dyn Kms> {
        Box::new(client(&self.aws, time))
    }

    async fn connect_to_wrong_type(&self, time: Arc<dyn Time>) -> Box<dyn Kms> {
        let state = self.aws.scratch().join("wrong");
        Box::new(connect(&config(&self.p384, &self.aws.proxy, &state), time))
    }

    fn signs_asked(&self) -> u64 {
        self.aws.proxy.faults().seen()
    }

    fn secret(&self) -> String {
        SECRET.to_owned()
    }

    fn throttle(&self, times: u32) {
        self.plan(times, refusal(StatusCode::BAD_REQUEST, "ThrottlingException"));
    }

    fn forbid(&self) {
        self.plan(
            FOR_EVER,
            refusal(StatusCode::BAD_REQUEST, "AccessDeniedException"),
        );
    }

    fn hold(&self) {
        self.plan(FOR_EVER, Fault::Hold);
    }

    async fn held(&self) {
        self.aws.proxy.faults().held().await;
    }

    fn fail(&self) {
        let failure = refusal(StatusCode::INTERNAL_SERVER_ERROR, "KMSInternalException");
        self.plan(FOR_EVER, failure);
    }

    fn answer_as_another_version(&self) {
        self.plan(
            FOR_EVER,
            Fault::Edit(Arc::new(|body| {
                let mut answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                answer["KeyId"] = UNKNOWN.into();
                Bytes::from(answer.to_string())
            })),
        );
    }

    fn answer_nonsense(&self) {
        let nonsense = Fault::Edit(Arc::new(|_| Bytes::from_static(b"<html>welcome</html>")));
        self.plan(FOR_EVER, nonsense);
    }

    fn heal(&self) {
        self.aws.proxy.faults().heal();
    }

    async fn leave(&mut self) {
        self.aws.proxy.go().await;
    }

    async fn come_back(&mut self) {
        self.aws.proxy.come_back().expect("listens again");
    }

    async fn disable_key(&mut self) -> KeyVersion {
        let arn = self.aws.target(Aws::ALIAS).await;
        self.aws.ask("DisableKey", json!({ "KeyId": id_of(&arn) })).await;
        version(&arn)
    }

    async fn enable_key(&mut self) {
        let arn = self.aws.target(Aws::ALIAS).await;
        self.aws.ask("EnableKey", json!({ "KeyId": id_of(&arn) })).await;
    }

    async fn delete_key(&mut self) {
        self.aws.forget().await;
    }
}

#[tokio::test]
async fn a_signature_that_does_not_verify_is_not_given_out() {
    let aws = started().await;
    let kms = client(&aws, TestTime::new());
    let current = kms.current().await.expect("a key");
    let other = aws.create_key("ECC_NIST_P256").await;
    let elsewhere = connect(
        &config(&other, &aws.proxy, &aws.scratch().join("other")),
        TestTime::new(),
    );
    let foreign = elsewhere.sign(&version(&other), &[9; 32]).await.expect("signs");
    let foreign = STANDARD.encode(foreign.to_der());
    let edit = Fault::Edit(Arc::new(move |body| {
        let mut answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        answer["Signature"] = foreign.clone().into();
        Bytes::from(answer.to_string())
    }));
    aws.proxy.faults().plan(aws::is_sign, 1, edit);
    let error = kms
        .sign(&current, &[9; 32])
        .await
        .expect_err("another key signed");
    assert_eq!(error.label(), "malformed_answer", "{error}");
    kms.sign(&current, &[9; 32]).await.expect("and now its own");
}
