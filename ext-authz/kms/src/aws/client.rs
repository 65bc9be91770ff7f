//! Single requests to AWS KMS and their answers, parsed. Nothing is tried twice here.

use std::fmt;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::{Region, SdkConfig};
use aws_sdk_kms::config::Credentials;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeySpec, KeyUsageType, MessageType, SigningAlgorithmSpec, Tag};
use tokio::sync::OnceCell;

use super::AwsConfig;
use super::answer::{self, Failure};
use super::key::{Key, Regions, Tags};
use super::reference::Reference;
use crate::address;
use crate::{Call, Env, KeyVersion, KmsError, Signature, Spki};

/// The policy's name: AWS knows no other.
const POLICY: &str = "default";

/// How many keys a page of `ListKeys` has: the most that AWS allows.
const KEYS_A_PAGE: i32 = 1_000;

/// The most pages of tags that are read for one key. AWS allows 50 tags a key, which is one page.
const MAX_TAG_PAGES: usize = 4;

pub(super) struct Client {
    settings: Settings,
    /// Made at the first call: the SDK may ask the instance it runs on for the region.
    sdk: OnceCell<aws_sdk_kms::Client>,
}

struct Settings {
    region: Option<Region>,
    endpoint: Option<String>,
    credentials: Option<Credentials>,
}

/// One page of `ListKeys`.
pub(super) struct Page {
    pub(super) arns: Vec<String>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
}

/// What a new key is made of.
pub(super) struct Successor {
    pub(super) tags: Vec<Tag>,
    pub(super) policy: String,
    pub(super) description: String,
    pub(super) regions: Regions,
}

impl Client {
    pub(super) fn new(config: &AwsConfig, reference: &Reference, env: &Env) -> Result<Self, KmsError> {
        let variable = |names: [&str; 2]| names.into_iter().find_map(|name| env.variable(name));
        let region = config.region.clone();
        let region = region
            .or_else(|| reference.region().map(str::to_owned))
            .or_else(|| variable(["AWS_REGION", "AWS_DEFAULT_REGION"]));
        let endpoint = match &config.endpoint {
            Some(endpoint) => Some(parse_endpoint("kms.endpoint", endpoint)?),
            None => variable(["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"])
                .map(|endpoint| parse_endpoint("AWS_ENDPOINT_URL_KMS", &endpoint))
                .transpose()?,
        };
        Ok(Self {
            settings: Settings {
                region: region.map(Region::new),
                endpoint,
                credentials: credentials(env),
            },
            sdk: OnceCell::new(),
        })
    }

    pub(super) async fn describe(&self, call: &Call, key: &str) -> Result<Key, Failure> {
        let sdk = self.sdk().await?;
        let answer = sdk.describe_key().key_id(key).send().await;
        let answer = answer.map_err(|error| answer::failure(call, &error))?;
        let metadata = answer
            .key_metadata
            .ok_or_else(|| call.malformed_answer("DescribeKey without KeyMetadata"))?;
        Ok(Key::parse(call, metadata)?)
    }

    pub(super) async fn public_key(&self, call: &Call, arn: &KeyVersion) -> Result<Spki, Failure> {
        let sdk = self.sdk().await?;
        let answer = sdk.get_public_key().key_id(arn.as_str()).send().await;
        let answer = answer.map_err(|error| answer::failure(call, &error))?;
        refuse_other(call, arn, answer.key_id.as_deref())?;
        if answer
            .key_spec
            .as_ref()
            .is_some_and(|spec| *spec != KeySpec::EccNistP256)
        {
            let spec = answer.key_spec.as_ref().map_or("", KeySpec::as_str);
            return Err(call.wrong_key_type(spec).into());
        }
        let der = answer.public_key.map(Blob::into_inner).unwrap_or_default();
        let public = Spki::from_der(&der).map_err(|error| call.malformed_answer(error))?;
        Ok(public)
    }

    pub(super) async fn sign(
        &self,
        call: &Call,
        arn: &KeyVersion,
        digest: &[u8; 32],
    ) -> Result<Signature, Failure> {
        let sdk = self.sdk().await?;
        let request = sdk
            .sign()
            .key_id(arn.as_str())
            .message(Blob::new(digest.as_slice()))
            .message_type(MessageType::Digest)
            .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256);
        let answer = request.send().await;
        let answer = answer.map_err(|error| answer::failure(call, &error))?;
        refuse_other(call, arn, answer.key_id.as_deref())?;
        let der = answer.signature.map(Blob::into_inner).unwrap_or_default();
        Ok(Signature::from_der(&der)?)
    }

    pub(super) async fn tags(&self, call: &Call, arn: &str) -> Result<Tags, Failure> {
        let sdk = self.sdk().await?;
        let mut tags = Tags::new();
        let mut marker = None;
        for _ in 0..MAX_TAG_PAGES {
            let request = sdk.list_resource_tags().key_id(arn).set_marker(marker);
            let answer = request.send().await;
            let answer = answer.map_err(|error| answer::failure(call, &error))?;
            let page = answer.tags.unwrap_or_default();
            tags.extend(page.into_iter().map(|tag| (tag.tag_key, tag.tag_value)));
            marker = answer.next_marker.filter(|_| answer.truncated);
            if marker.is_none() {
                return Ok(tags);
            }
        }
        Err(call
            .malformed_answer(format!(
                "the tags of {arn} do not end after {MAX_TAG_PAGES} pages"
            ))
            .into())
    }

    pub(super) async fn keys(&self, call: &Call, marker: Option<String>) -> Result<Page, Failure> {
        let sdk = self.sdk().await?;
        let answer = sdk.list_keys().limit(KEYS_A_PAGE).set_marker(marker).send().await;
        let answer = answer.map_err(|error| answer::failure(call, &error))?;
        let keys = answer.keys.unwrap_or_default();
        Ok(Page {
            arns: keys.into_iter().filter_map(|key| key.key_arn).collect(),
            next: answer.next_marker.filter(|_| answer.truncated),
        })
    }

    pub(super) async fn policy(&self, call: &Call, arn: &KeyVersion) -> Result<String, Failure> {
        let sdk = self.sdk().await?;
        let request = sdk.get_key_policy().key_id(arn.as_str()).policy_name(POLICY);
        let answer = request.send().await;
        let answer = answer.map_err(|error| answer::failure(call, &error))?;
        let policy = answer.policy;
        Ok(policy.ok_or_else(|| call.malformed_answer("GetKeyPolicy without Policy"))?)
    }

    pub(super) async fn create(&self, call: &Call, successor: &Successor) -> Result<Key, Failure> {
        let sdk = self.sdk().await.map_err(Failure::Nothing)?;
        let request = sdk
            .create_key()
            .key_spec(KeySpec::EccNistP256)
            .key_usage(KeyUsageType::SignVerify)
            .multi_region(successor.regions == Regions::Several)
            .description(&successor.description)
            .policy(&successor.policy)
            // The check is for people who are about to lock themselves out. This policy stands on the key before already, and
            // whoever signs need not be allowed to change it.
            .bypass_policy_lockout_safety_check(true)
            .set_tags(Some(successor.tags.clone()));
        let answer = request.send().await;
        let answer = answer.map_err(|error| answer::failure(call, &error))?;
        let metadata = answer
            .key_metadata
            .ok_or_else(|| call.malformed_answer("CreateKey without KeyMetadata"))?;
        Ok(Key::parse(call, metadata)?)
    }

    pub(super) async fn move_alias(&self, call: &Call, alias: &str, to: &KeyVersion) -> Result<(), Failure> {
        let sdk = self.sdk().await?;
        let request = sdk.update_alias().alias_name(alias).target_key_id(to.as_str());
        let answer = request.send().await;
        answer.map_err(|error| answer::failure(call, &error))?;
        Ok(())
    }

    async fn sdk(&self) -> Result<&aws_sdk_kms::Client, KmsError> {
        self.sdk.get_or_try_init(|| self.settings.load()).await
    }
}

impl Settings {
    async fn load(&self) -> Result<aws_sdk_kms::Client, KmsError> {
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
        if let Some(region) = &self.region {
            loader = loader.region(region.clone());
        }
        if let Some(credentials) = &self.credentials {
            loader = loader.credentials_provider(credentials.clone());
        }
        let shared: SdkConfig = loader.load().await;
        if shared.region().is_none() {
            return Err(KmsError::Setting {
                field: "kms.region",
                reason: "is missing, and neither AWS_REGION, the profile nor the instance says it; write for example eu-west-1"
                    .to_owned(),
            });
        }
        let mut config = aws_sdk_kms::config::Builder::from(&shared).retry_config(RetryConfig::disabled());
        config.set_endpoint_url(
            self.endpoint
                .clone()
                .or_else(|| shared.endpoint_url().map(str::to_owned)),
        );
        Ok(aws_sdk_kms::Client::from_conf(config.build()))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("region", &self.settings.region)
            .field("endpoint", &self.settings.endpoint)
            .finish_non_exhaustive()
    }
}

/// The first link of the SDK's chain of credentials, read through [`Env`] as everything else is. The SDK has the others.
fn credentials(env: &Env) -> Option<Credentials> {
    let id = env.variable("AWS_ACCESS_KEY_ID")?;
    let secret = env.variable("AWS_SECRET_ACCESS_KEY")?;
    let session = env.variable("AWS_SESSION_TOKEN");
    Some(Credentials::new(id, secret, session, None, "environment"))
}

fn parse_endpoint(field: &'static str, text: &str) -> Result<String, KmsError> {
    address::parse(field, text).map(|_| text.to_owned())
}

/// AWS answers with the ARN of the key it used.
fn refuse_other(call: &Call, asked: &KeyVersion, answered: Option<&str>) -> Result<(), KmsError> {
    match answered {
        Some(answered) if answered == asked.as_str() => Ok(()),
        other => Err(call.other_version(asked, other.unwrap_or("nothing"))),
    }
}
