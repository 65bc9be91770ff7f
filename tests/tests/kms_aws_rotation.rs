//! Rotation at AWS against moto: through a crash at every request, lost answers, and people who move things meanwhile.

use std::path::PathBuf;
use std::sync::Arc;

use hyper::StatusCode;
use knhk_kms::aws::{AwsConfig, AwsKms, INTENT_FILE, SETTLE_AFTER};
use knhk_kms::conformance;
use knhk_kms::testing::TestTime;
use knhk_kms::{KeyVersion, Kms, KmsError};
use knhk_tests::peer::aws::{self, Aws, REGION, config, connect, id_of, refusal};
use knhk_tests::peer::fault::{Asked, FOR_EVER, Fault, Faults, Proxy};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

async fn started() -> Aws {
    Aws::start().await.unwrap_or_else(|not_run| panic!("{not_run}"))
}

fn version(name: &str) -> KeyVersion {
    KeyVersion::new(name).expect("a good name")
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

    /// Rotates, and once more after the time that the rotation says it needs.
    async fn patiently(&self, kms: &AwsKms) -> Result<KeyVersion, KmsError> {
        match kms.rotate_key().await {
            Err(error) if error.label() == "rotation_pending" => {
                let keys = self.aws.keys().await;
                assert_eq!(
                    keys,
                    std::slice::from_ref(&self.first),
                    "the new one is not there yet"
                );
                self.time.advance(SETTLE_AFTER);
                kms.rotate_key().await
            }
            rotated => rotated,
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
                None => test.patiently(&test.process()).await.expect("rotates"),
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
                    None => test.patiently(&test.process()).await.expect("rotates"),
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

/// How many lives a process has at most, in one schedule of crashes.
const LIVES: u32 = 6;

#[tokio::test]
async fn many_crashes_in_a_row_leave_nothing_orphaned_either() {
    let mut test = Rotation::begin().await;
    for seed in 0..12 {
        eprintln!("the schedule of seed {seed}");
        let mut schedule = StdRng::seed_from_u64(seed);
        test.again().await;
        let mut rotated = None;
        for _ in 0..LIVES {
            test.proxy = test.aws.another_proxy().expect("starts");
            let request = schedule.random_range(0..12);
            let crash = [Crash::Before(request), Crash::After(request)];
            crash[schedule.random_range(0..2)].plan(test.faults());
            let kms = test.process();
            rotated = tokio::select! {
                biased;
                rotated = test.patiently(&kms) => Some(rotated),
                () = test.faults().held() => None,
            };
            if rotated.is_some() {
                break;
            }
        }
        test.faults().heal();
        let new = match rotated {
            Some(rotated) => rotated.expect("rotates"),
            None => test.patiently(&test.process()).await.expect("rotates"),
        };
        test.is_whole(&new).await;
    }
}

#[tokio::test]
async fn a_rotation_is_begun_from_a_crash_until_the_call_that_finishes_it() {
    let test = Rotation::begin().await;
    assert!(!test.process().rotation_begun(), "nobody has rotated");
    // The key was made, and nobody knows.
    Crash::After(3).plan(test.faults());
    assert!(until_crash(&test.process(), test.faults()).await.is_none());
    let kms = test.process();
    assert!(kms.rotation_begun(), "it asks nobody: AWS is away");
    test.faults().heal();
    let new = kms.rotate_key().await.expect("resumes");
    assert!(!kms.rotation_begun());
    test.is_whole(&new).await;
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
