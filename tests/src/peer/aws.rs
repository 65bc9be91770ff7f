//! AWS KMS: moto, whose faults are corrected, behind a proxy that injects others.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use knhk_kms::aws::{AwsConfig, AwsKms};
use knhk_kms::{Time, testing};
use serde_json::{Value, json};

use super::NotRun;
use super::fault::{Answer, Asked, Fault, Faults, Proxy};
use crate::process::{Launch, Process};
use crate::service::KeyService;
use crate::{artifacts, wait};

const PEER: &str = "moto";

/// The region that the peer's keys are in.
pub const REGION: &str = "us-east-1";

/// moto takes any credentials; these are no one's.
const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";

/// The secret that goes with it.
pub const SECRET: &str = "knhk-tests-only";

/// moto with one signing key on P-256 behind [`Aws::ALIAS`].
#[derive(Debug)]
pub struct Aws {
    /// What stands between KNHK and moto. Its faults are where throttling and the like come from.
    pub proxy: Proxy,
    moto: SocketAddr,
    client: reqwest::Client,
    _process: Process,
    directory: tempfile::TempDir,
}

impl Aws {
    /// The alias of the key that is there from the start.
    pub const ALIAS: &'static str = "alias/knhk";

    /// Installs moto where it is missing, starts it, and makes a key.
    pub async fn start() -> Result<Self, NotRun> {
        let directory = tempfile::tempdir().map_err(NotRun::because(PEER))?;
        let log = directory.path().join("moto.log");
        let mut process = Launch::new(PEER, log, python()?)
            .args([artifacts::root().join("tests/peers/moto/serve.py")])
            .start()
            .map_err(NotRun::because(PEER))?;
        // Its first line is its address.
        let moto = wait::until("moto's address", wait::SOON, || {
            let seen = match process.check() {
                Ok(()) => address(&process.log()).ok_or_else(|| "no address yet".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            async { seen }
        })
        .await
        .map_err(NotRun::because(PEER))?;
        let peer = Self {
            proxy: Proxy::start(moto, Faults::new(is_sign)).map_err(NotRun::because(PEER))?,
            moto,
            client: reqwest::Client::new(),
            _process: process,
            directory,
        };
        peer.begin_again().await;
        Ok(peer)
    }

    /// Another proxy before the same moto, with faults of its own.
    pub fn another_proxy(&self) -> Result<Proxy, crate::Error> {
        Proxy::start(self.moto, Faults::new(is_sign))
    }

    /// Forgets every key, and makes one behind [`Aws::ALIAS`], whose ARN it gives.
    pub async fn begin_again(&self) -> String {
        self.forget().await;
        let arn = self.create_key("ECC_NIST_P256").await;
        self.name(Self::ALIAS, &arn).await;
        arn
    }

    /// Forgets every key and alias. A user of AWS can only schedule that.
    ///
    /// # Panics
    /// If moto does not answer.
    pub async fn forget(&self) {
        let reset = format!("http://{}/moto-api/reset", self.moto);
        let answer = self.client.post(reset).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("reset: {error}"));
        assert!(answer.status().is_success(), "reset: {}", answer.status());
    }

    /// Where KNHK finds it: the proxy.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.proxy.address())
    }

    /// A directory of its own, for `AwsConfig::state` and other files.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// Variables with credentials.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// The `kms:` block for `knhk serve`.
    pub fn knhk_yaml(&self) -> String {
        format!(
            "kms: {{ provider: aws, key_id: {}, region: {REGION}, endpoint: \"{}\" }}\n",
            Self::ALIAS,
            self.endpoint()
        )
    }

    /// What a service of the harness needs to sign with it.
    pub fn key_service(&self) -> KeyService {
        KeyService {
            yaml: self.knhk_yaml(),
            environment: self.environment(),
        }
    }

    /// Makes a key of this spec for signing, and gives its ARN.
    pub async fn create_key(&self, spec: &str) -> String {
        let asked = json!({
            "KeySpec": spec, "KeyUsage": "SIGN_VERIFY", "Description": "signs receipts",
            "Tags": [{ "TagKey": "team", "TagValue": "mesh" }],
        });
        let made = self.ask("CreateKey", asked).await;
        text(&made["KeyMetadata"]["Arn"])
    }

    /// Makes an alias.
    pub async fn name(&self, alias: &str, arn: &str) {
        let asked = json!({ "AliasName": alias, "TargetKeyId": arn });
        self.ask("CreateAlias", asked).await;
    }

    /// The ARN that an alias leads to.
    pub async fn target(&self, alias: &str) -> String {
        let key = self.ask("DescribeKey", json!({ "KeyId": alias })).await;
        text(&key["KeyMetadata"]["Arn"])
    }

    /// The ARNs of every key.
    pub async fn keys(&self) -> Vec<String> {
        let (mut keys, mut asked) = (Vec::new(), json!({}));
        loop {
            let page = self.ask("ListKeys", asked).await;
            let listed = page["Keys"].as_array().cloned().unwrap_or_default();
            keys.extend(listed.iter().map(|key| text(&key["KeyArn"])));
            if page["Truncated"] != true {
                return keys;
            }
            asked = json!({ "Marker": page["NextMarker"] });
        }
    }

    /// The tags of a key, `KEY=VALUE`, sorted.
    pub async fn tags(&self, arn: &str) -> Vec<String> {
        let tags = self.ask("ListResourceTags", json!({ "KeyId": arn })).await;
        let tags = tags["Tags"].as_array().cloned().unwrap_or_default();
        let mut tags: Vec<String> = tags
            .iter()
            .map(|tag| format!("{}={}", text(&tag["TagKey"]), text(&tag["TagValue"])))
            .collect();
        tags.sort_unstable();
        tags
    }

    /// Asks moto itself, past the proxy.
    ///
    /// # Panics
    /// If moto refuses.
    pub async fn ask(&self, operation: &str, asked: Value) -> Value {
        let answer = self
            .client
            .post(format!("http://{}", self.moto))
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("TrentService.{operation}"))
            // moto takes service and region from it and checks nothing else.
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential=x/20260101/{REGION}/kms/aws4_request"),
            )
            .body(asked.to_string())
            .send()
            .await
            .unwrap_or_else(|error| panic!("{operation}: {error}"));
        let status = answer.status();
        let body = answer.text().await.unwrap_or_default();
        assert!(status.is_success(), "{operation}: {status}: {body}");
        serde_json::from_str(&body).unwrap_or(Value::Null)
    }
}

/// A configuration for a key behind this proxy.
pub fn config(key_id: &str, proxy: &Proxy, state: &Path) -> AwsConfig {
    AwsConfig {
        key_id: key_id.to_owned(),
        region: Some(REGION.to_owned()),
        endpoint: Some(format!("http://{}", proxy.address())),
        state: state.to_owned(),
    }
}

/// A client with this time and the credentials of [`Aws::environment`].
///
/// # Panics
/// If the configuration is no good.
pub fn connect(config: &AwsConfig, time: Arc<dyn Time>) -> AwsKms {
    let variables = [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ];
    AwsKms::connect(config, testing::env(time, &variables)).unwrap_or_else(|error| panic!("{error}"))
}

/// An error as AWS answers with it.
pub fn refusal(status: StatusCode, code: &str) -> Fault {
    let body = json!({ "__type": code, "message": format!("{code} because of a test") });
    Fault::Answer(Answer {
        status,
        body: Bytes::from(body.to_string()),
    })
}

/// The key's ID at the end of its ARN.
pub fn id_of(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// Whether a request to the proxy is of this operation.
pub fn is(asked: &Asked, operation: &str) -> bool {
    let target = asked.headers.get("x-amz-target");
    target
        .and_then(|target| target.to_str().ok())
        .and_then(|target| target.strip_prefix("TrentService."))
        == Some(operation)
}

/// Whether a request is to sign.
pub fn is_sign(asked: &Asked) -> bool {
    is(asked, "Sign")
}

fn python() -> Result<String, NotRun> {
    let script = artifacts::root().join("tests/peers/moto.sh");
    let output = Command::new(script).output().map_err(NotRun::because(PEER))?;
    if !output.status.success() {
        return Err(NotRun::new(PEER, String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn address(log: &str) -> Option<SocketAddr> {
    let (first, _) = log.split_once('\n')?;
    first.strip_prefix("http://")?.parse().ok()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
