//! AWS KMS against moto: what every provider must do, and rotation through crashes, which is AWS's alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use knhk_kms::aws::{AwsConfig, AwsKms, INTENT_FILE, SETTLE_AFTER};
use knhk_kms::conformance::{self, FaultyPeer};
use knhk_kms::testing::{self, TestTime};
use knhk_kms::{KeyVersion, Kms, KmsError, Time};
use knhk_tests::peer::aws::{self, Aws, REGION};
use knhk_tests::peer::fault::{Answer, Asked, FOR_EVER, Fault, Faults, Proxy};
use serde_json::json;

const SECRET: &str = "knhk-tests-only";

/// No key has it.
const UNKNOWN: &str = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000";

async fn started() -> Aws {
    Aws::start().await.unwrap_or_else(|not_run| panic!("{not_run}"))
}

fn config(key_id: &str, proxy: &Proxy, state: &Path) -> AwsConfig {
    AwsConfig {
        key_id: key_id.to_owned(),
        region: Some(REGION.to_owned()),
        endpoint: Some(format!("http://{}", proxy.address())),
        state: state.to_owned(),
    }
}

fn connect(config: &AwsConfig, time: Arc<dyn Time>) -> AwsKms {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ];
    AwsKms::connect(config, testing::env(time, &variables)).expect("a good configuration")
}

fn client(aws: &Aws, time: Arc<dyn Time>) -> AwsKms {
    let state = aws.scratch().join("state");
    connect(&config(Aws::ALIAS, &aws.proxy, &state), time)
}

fn version(name: &str) -> KeyVersion {
    KeyVersion::new(name).expect("a good name")
}

/// The key's ID at the end of its ARN.
fn id_of(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

fn refusal(status: StatusCode, code: &str) -> Fault {
    let body = json!({ "__type": code, "message": format!("{code} because of a test") });
    Fault::Answer(Answer {
        status,
        body: Bytes::from(body.to_string()),
    })
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

/// One rotation of a key that nobody has rotated before, with faults and a clock of its own.
struct Rotation {
    aws: Aws,
    proxy: Proxy,
    time: Arc<TestTime>,
    state: PathBuf,
    first: String,
}

impl Rotation {
    async fn begin() -> Self {
        let aws = started().await;
        let first = aws.target(Aws::ALIAS).await;
        Self {
            proxy: aws.another_proxy().expect("starts"),
            time: TestTime::new(),
            state: aws.scratch().join("state"),
            aws,
            first,
        }
    }

    /// Everything anew, but for the process of moto.
    async fn again(&mut self) {
        self.first = self.aws.begin_again().await;
        self.proxy = self.aws.another_proxy().expect("starts");
        self.time = TestTime::new();
        let _ = std::fs::remove_dir_all(&self.state);
    }

    fn faults(&self) -> &Faults {
        self.proxy.faults()
    }

    /// A process that starts: it knows what is on disk.
    fn process(&self) -> AwsKms {
        connect(&config(Aws::ALIAS, &self.proxy, &self.state), self.time.clone())
    }

    fn intent(&self) -> bool {
        self.state.join(INTENT_FILE).exists()
    }

    /// What must hold after a rotation, whatever came before: one key more and no other, the alias at it, nothing under way.
    async fn is_whole(&self, new: &KeyVersion) {
        let mut keys = self.aws.keys().await;
        keys.sort_unstable();
        let mut expected = [self.first.clone(), new.to_string()];
        expected.sort_unstable();
        assert_eq!(keys, expected, "one key was made");
        assert_eq!(
            self.aws.target(Aws::ALIAS).await,
            new.as_str(),
            "the alias leads to it"
        );
        assert!(!self.intent(), "nothing is under way");
        let kms = self.process();
        let metadata = kms.key_metadata().await.expect("metadata");
        let versions: Vec<&str> = metadata
            .versions
            .iter()
            .map(|info| info.version.as_str())
            .collect();
        assert_eq!(versions, [self.first.as_str(), new.as_str()]);
        for name in versions {
            conformance::signs_with_the_version_asked_for(&kms, &version(name)).await;
        }
    }

    /// Rotates until it succeeds, letting time pass where the rotation says that it has to.
    async fn finishes(&self) -> KeyVersion {
        let kms = self.process();
        match kms.rotate_key().await {
            Ok(new) => new,
            Err(error) => {
                assert_eq!(error.label(), "rotation_pending", "{error}");
                assert_eq!(
                    self.aws.keys().await,
                    std::slice::from_ref(&self.first),
                    "it is not there yet"
                );
                self.time.advance(SETTLE_AFTER);
                kms.rotate_key().await.expect("rotates")
            }
        }
    }
}

fn any(_: &Asked) -> bool {
    true
}

fn unchanged() -> Fault {
    Fault::Edit(Arc::new(|body| body))
}

/// Where a process ends.
#[derive(Clone, Copy, Debug)]
enum Crash {
    /// When its request, counted from 0, was sent and did not arrive.
    Before(u32),
    /// When its request was carried out and the answer did not arrive.
    After(u32),
}

impl Crash {
    fn plan(self, faults: &Faults) {
        let (Self::Before(request) | Self::After(request)) = self;
        faults.plan(any, request, unchanged());
        if let Self::After(_) = self {
            faults.plan(any, 1, Fault::LoseAnswer);
        }
        faults.plan(any, FOR_EVER, Fault::Hold);
    }
}

/// Runs until the rotation is over or the process ends: then it is dropped where it stands.
async fn until_crash(kms: &AwsKms, faults: &Faults) -> Option<Result<KeyVersion, KmsError>> {
    tokio::select! {
        biased;
        rotated = kms.rotate_key() => Some(rotated),
        () = faults.held() => None,
    }
}

/// The requests of a rotation that nothing disturbs.
const REQUESTS: u32 = 6;

#[tokio::test]
async fn a_crash_at_any_request_leaves_nothing_orphaned_or_half_moved() {
    let mut test = Rotation::begin().await;
    for request in 0..=REQUESTS {
        for crash in [Crash::Before(request), Crash::After(request)] {
            test.again().await;
            crash.plan(test.faults());
            let rotated = until_crash(&test.process(), test.faults()).await;
            assert_eq!(rotated.is_some(), request == REQUESTS, "{crash:?}: {rotated:?}");
            test.faults().heal();
            let new = match rotated {
                Some(rotated) => rotated.expect("rotates"),
                None => test.finishes().await,
            };
            test.is_whole(&new).await;
        }
    }
}

#[tokio::test]
async fn a_crash_while_a_rotation_is_resumed_leaves_nothing_orphaned_either() {
    let mut test = Rotation::begin().await;
    // The first process ends when the key was made, or the alias moved, and it does not know.
    for first in [Crash::After(3), Crash::Before(4), Crash::After(4)] {
        let mut request = 0;
        loop {
            let mut over = 0;
            for second in [Crash::Before(request), Crash::After(request)] {
                test.again().await;
                first.plan(test.faults());
                assert!(until_crash(&test.process(), test.faults()).await.is_none());
                test.proxy = test.aws.another_proxy().expect("starts");
                second.plan(test.faults());
                let resumed = until_crash(&test.process(), test.faults()).await;
                test.faults().heal();
                let new = match resumed {
                    Some(resumed) => {
                        over += 1;
                        resumed.expect("resumes")
                    }
                    None => test.finishes().await,
                };
                test.is_whole(&new).await;
            }
            if over == 2 {
                break;
            }
            request += 1;
        }
        assert!(
            request > 2,
            "{first:?}: the second process was ended {request} times"
        );
    }
}

#[tokio::test]
async fn a_successor_has_spec_tags_policy_and_description_of_the_key_before_it() {
    let test = Rotation::begin().await;
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Sid":"mine","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::123456789012:role/knhk"},"Action":"kms:*","Resource":"*"}]}"#;
    let put = json!({ "KeyId": test.first, "PolicyName": "default", "Policy": policy });
    test.aws.ask("PutKeyPolicy", put).await;
    let new = test.process().rotate_key().await.expect("rotates");
    test.is_whole(&new).await;
    let tags = test.aws.tags(new.as_str()).await;
    let [previous, rotation, team] = tags.as_slice() else {
        panic!("three tags: {tags:?}");
    };
    assert_eq!(*previous, format!("knhk:previous={}", test.first));
    assert_eq!(rotation.len(), "knhk:rotation=".len() + 32, "{rotation}");
    assert_eq!(team, "team=mesh");
    let key = test
        .aws
        .ask("DescribeKey", json!({ "KeyId": new.as_str() }))
        .await;
    let key = &key["KeyMetadata"];
    assert_eq!(
        (&key["KeySpec"], &key["KeyUsage"]),
        (&json!("ECC_NIST_P256"), &json!("SIGN_VERIFY"))
    );
    assert_eq!(key["Description"], "signs receipts");
    let asked = json!({ "KeyId": new.as_str(), "PolicyName": "default" });
    assert_eq!(test.aws.ask("GetKeyPolicy", asked).await["Policy"], policy);
}

fn creates(asked: &Asked) -> bool {
    aws::is(asked, "CreateKey")
}

/// The tags of keys in several regions, whose IDs begin so.
fn reads_their_tags(asked: &Asked) -> bool {
    let body = String::from_utf8_lossy(&asked.body);
    aws::is(asked, "ListResourceTags") && body.contains("key/mrk-")
}

#[tokio::test]
async fn a_key_whose_answer_was_lost_is_found_in_the_same_call_among_keys_that_are_not_for_us() {
    let test = Rotation::begin().await;
    for _ in 0..10 {
        let theirs = json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY", "MultiRegion": true });
        test.aws.ask("CreateKey", theirs).await;
    }
    let before = test.aws.keys().await;
    test.faults().plan(creates, 1, Fault::LoseAnswer);
    let denied = refusal(StatusCode::BAD_REQUEST, "AccessDeniedException");
    test.faults().plan(reads_their_tags, FOR_EVER, denied);
    let new = test.process().rotate_key().await.expect("rotates");
    assert!(!before.contains(&new.to_string()));
    assert_eq!(test.aws.keys().await.len(), before.len() + 1, "one key was made");
    assert_eq!(test.aws.target(Aws::ALIAS).await, new.as_str());
    assert!(!test.intent(), "nothing is under way");
}

#[tokio::test]
async fn a_request_that_perhaps_arrived_is_not_sent_again_until_it_must_be_visible() {
    let test = Rotation::begin().await;
    test.faults().plan(creates, 1, Fault::Hold);
    let kms = test.process();
    let expire = async {
        test.faults().held().await;
        test.time.expire();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        rotated = kms.rotate_key() => rotated.expect_err("nobody answered"),
        () = expire => unreachable!("it is pending"),
    };
    assert_eq!(error.label(), "timeout", "{error}");
    for _ in 0..2 {
        let error = kms.rotate_key().await.expect_err("it may be made yet");
        assert_eq!(error.label(), "rotation_pending", "{error}");
        assert!(error.to_string().contains("rotate again in"), "{error}");
    }
    assert_eq!(kms.current().await.expect("the old key").as_str(), test.first);
    test.time.advance(SETTLE_AFTER);
    let new = kms.rotate_key().await.expect("it was not made");
    test.is_whole(&new).await;
}

#[tokio::test]
async fn a_refusal_to_make_a_key_leaves_nothing_under_way() {
    let test = Rotation::begin().await;
    let kms = test.process();
    let denied = refusal(StatusCode::BAD_REQUEST, "AccessDeniedException");
    test.faults().plan(creates, 1, denied);
    let error = kms.rotate_key().await.expect_err("refused");
    assert_eq!(error.label(), "forbidden", "{error}");
    assert!(!test.intent(), "nothing was made");
    assert_eq!(test.aws.keys().await, std::slice::from_ref(&test.first));
    test.faults().plan(
        creates,
        3,
        refusal(StatusCode::BAD_REQUEST, "ThrottlingException"),
    );
    let new = kms.rotate_key().await.expect("it is tried again");
    test.is_whole(&new).await;
}

#[tokio::test]
async fn an_alias_that_somebody_moved_meanwhile_is_left_alone() {
    let test = Rotation::begin().await;
    Crash::After(3).plan(test.faults());
    assert!(until_crash(&test.process(), test.faults()).await.is_none());
    test.faults().heal();
    let theirs = test.aws.create_key("ECC_NIST_P256").await;
    let theirs_now = json!({ "AliasName": Aws::ALIAS, "TargetKeyId": theirs });
    test.aws.ask("UpdateAlias", theirs_now).await;
    let error = test.process().rotate_key().await.expect_err("not ours to move");
    assert_eq!(error.label(), "rotation_pending", "{error}");
    let line = error.to_string();
    assert!(
        line.contains(INTENT_FILE) && line.contains(&theirs) && line.contains("knhk:rotation="),
        "{line}"
    );
    assert_eq!(test.aws.target(Aws::ALIAS).await, theirs);
    // Moved back, it goes on.
    let back = json!({ "AliasName": Aws::ALIAS, "TargetKeyId": test.first });
    test.aws.ask("UpdateAlias", back).await;
    let new = test.process().rotate_key().await.expect("resumes");
    assert_eq!(test.aws.keys().await.len(), 3, "the first one, theirs and ours");
    assert_eq!(test.aws.target(Aws::ALIAS).await, new.as_str());
}

#[tokio::test]
async fn a_rotation_of_another_alias_is_not_taken_over() {
    let test = Rotation::begin().await;
    Crash::After(3).plan(test.faults());
    assert!(until_crash(&test.process(), test.faults()).await.is_none());
    test.faults().heal();
    test.aws.name("alias/other", &test.first).await;
    let other = connect(
        &config("alias/other", &test.proxy, &test.state),
        test.time.clone(),
    );
    let error = other.rotate_key().await.expect_err("another alias's");
    assert_eq!(error.label(), "rotation_pending", "{error}");
    assert!(error.to_string().contains(Aws::ALIAS), "{error}");
}

#[tokio::test]
async fn a_key_without_an_alias_signs_and_cannot_rotate() {
    let test = Rotation::begin().await;
    for name in [test.first.as_str(), id_of(&test.first)] {
        let kms = connect(&config(name, &test.proxy, &test.state), test.time.clone());
        let current = kms.current().await.expect("a key");
        assert_eq!(current.as_str(), test.first);
        conformance::signs_with_the_version_asked_for(&kms, &current).await;
        let error = kms.rotate_key().await.expect_err("no alias");
        assert_eq!(error.label(), "rotation_needs_alias", "{error}");
    }
    assert_eq!(test.aws.keys().await, std::slice::from_ref(&test.first));
}

#[tokio::test]
async fn an_alias_by_its_arn_rotates_too_and_two_rotations_at_once_make_a_key_each() {
    let test = Rotation::begin().await;
    let arn = format!("arn:aws:kms:{REGION}:123456789012:{}", Aws::ALIAS);
    let config = AwsConfig {
        region: None,
        ..config(&arn, &test.proxy, &test.state)
    };
    let kms = connect(&config, test.time.clone());
    let (one, other) = tokio::join!(kms.rotate_key(), kms.rotate_key());
    let (one, other) = (one.expect("rotates"), other.expect("rotates"));
    assert_ne!(one, other);
    let metadata = kms.key_metadata().await.expect("metadata");
    assert_eq!(metadata.versions.len(), 3);
    assert_eq!(test.aws.keys().await.len(), 3);
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
