//! Rotation: a new key, and the alias moved to it, through crashes and lost answers.
//!
//! `CreateKey` has no idempotency token: a request that is sent twice makes two keys. So a rotation gets a name first, which is
//! written to a file ([`IntentFile`]) and is a tag on the key that it makes. While the file is there, a request may have been
//! sent, and a later call looks for the key with that tag before it makes one:
//!
//! 1. The alias leads to the key of before, and there is no file: the file is written, the key made.
//! 2. There is a file, and a key with its tag: the alias is moved to that key.
//! 3. The alias leads to the key with the tag: the file is removed.
//!
//! AWS shows a new key to every request only after a while. One that was perhaps made and is not found is therefore waited for,
//! [`SETTLE_AFTER`], before another is made; the rotation fails meanwhile, and the key of before goes on signing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use sha2::{Digest, Sha256};

use super::AwsKms;
use super::answer::Failure;
use super::client::Successor;
use super::intent::{Intent, IntentFile};
use super::key::{self, Key, ROTATION_TAG};
use crate::retry::Retry;
use crate::{Call, Detail, Env, KeyState, KeyVersion, KmsError};

/// How long a key that was perhaps made is looked for before another is made. AWS: a change may take a few minutes to be
/// seen everywhere ("AWS KMS eventual consistency").
pub const SETTLE_AFTER: Duration = Duration::from_secs(5 * 60);

/// The most keys whose tags are looked at for the one that a rotation made.
pub const MAX_KEYS_SEARCHED: usize = 10_000;

/// How many keys' tags are asked for at a time.
const SEARCHED_AT_ONCE: usize = 16;

/// The rotation that is under way, if there is one.
pub(super) struct Rotation {
    file: Arc<IntentFile>,
    /// Held by the one call that may rotate.
    turn: tokio::sync::Mutex<Option<Missing>>,
}

/// A key that was perhaps made and was not found.
struct Missing {
    rotation: String,
    /// When it was first not found.
    since: Duration,
}

/// Where a rotation stands, by where its alias leads.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// To the key of before.
    NotMoved,
    /// To the key that the rotation made.
    Moved,
    /// To another one: somebody else moved it.
    Elsewhere,
}

/// One call to rotate: its name, its alias and what is left of its deadline.
struct Run<'k> {
    kms: &'k AwsKms,
    call: Call,
    alias: &'k str,
    start: Duration,
}

impl Rotation {
    pub(super) fn new(file: IntentFile) -> Self {
        Self {
            file: Arc::new(file),
            turn: tokio::sync::Mutex::new(None),
        }
    }

    pub(super) fn is_begun(&self) -> bool {
        self.file.path().exists()
    }

    async fn read(&self) -> Result<Option<Intent>, KmsError> {
        self.on_disk(IntentFile::read).await
    }

    async fn write(&self, intent: Intent) -> Result<(), KmsError> {
        self.on_disk(move |file| file.write(&intent)).await
    }

    async fn remove(&self) -> Result<(), KmsError> {
        self.on_disk(IntentFile::remove).await
    }

    /// Away from the threads that serve requests: a disk may take its time to sync.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&IntentFile) -> Result<T, KmsError> + Send + 'static,
    ) -> Result<T, KmsError> {
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || work(&file))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

impl AwsKms {
    /// Makes a new key, moves the alias to it, and gives its ARN. Or finishes the rotation that was begun.
    pub(super) async fn rotate(&self) -> Result<KeyVersion, KmsError> {
        let Some(alias) = self.reference.alias() else {
            return Err(KmsError::RotationNeedsAlias {
                key: Detail::new(&self.reference),
            });
        };
        let mut missing = self.rotation.turn.lock().await;
        let run = Run {
            kms: self,
            call: self.call("rotate"),
            alias,
            start: self.env.time.now(),
        };
        let target = run.target().await?;
        let new = match self.rotation.read().await? {
            None => run.begin(&target).await?,
            Some(intent) => run.resume(&intent, &target, &mut missing).await?,
        };
        run.move_alias(&new).await?;
        run.see_it_moved(&new).await?;
        self.rotation.remove().await?;
        *missing = None;
        Ok(new)
    }
}

impl Run<'_> {
    /// Names a rotation and makes its key.
    async fn begin(&self, target: &Key) -> Result<KeyVersion, KmsError> {
        target.refuse_unless_it_signs(&self.call)?;
        target.refuse_unless_made_by_aws(&self.call)?;
        let rotation = name(&self.kms.env, self.alias, &target.arn);
        let intent = Intent::new(rotation, self.alias, &target.arn);
        self.make(&intent, target).await
    }

    /// The key of the rotation that was begun: found, or made when it is certain that it never was.
    async fn resume(
        &self,
        intent: &Intent,
        target: &Key,
        missing: &mut Option<Missing>,
    ) -> Result<KeyVersion, KmsError> {
        if intent.alias != self.alias {
            return Err(self.pending(format!(
                "{} is of a rotation of {}: set kms.key_id back to that and rotate, or remove the file",
                self.file(),
                intent.alias
            )));
        }
        match self.stage(intent, target).await? {
            Stage::Moved => return Ok(target.arn.clone()),
            Stage::NotMoved => {}
            Stage::Elsewhere => {
                return Err(self.pending(format!(
                    "{} says that it began at {}, and somebody has moved the alias to {} since: move it back, or remove the file and the key that is tagged {ROTATION_TAG}={}",
                    self.file(),
                    intent.previous()?,
                    target.arn,
                    intent.rotation
                )));
            }
        }
        if let Some(found) = self.find(intent).await? {
            return Ok(found);
        }
        let since = match missing {
            Some(known) if known.rotation == intent.rotation => known.since,
            _ => self.now(),
        };
        *missing = Some(Missing {
            rotation: intent.rotation.clone(),
            since,
        });
        let left = (since + SETTLE_AFTER).saturating_sub(self.now());
        if !left.is_zero() {
            return Err(self.pending(format!(
                "whether AWS made the new key before it was asked for the last time is not certain yet: rotate again in {} s",
                left.as_secs().max(1)
            )));
        }
        self.make(intent, target).await
    }

    async fn stage(&self, intent: &Intent, target: &Key) -> Result<Stage, KmsError> {
        if target.arn == intent.previous()? {
            return Ok(Stage::NotMoved);
        }
        let tags = self.kms.tags_of(self.retry(), &self.call, &target.arn).await?;
        Ok(match tags.get(ROTATION_TAG) {
            Some(rotation) if *rotation == intent.rotation => Stage::Moved,
            _ => Stage::Elsewhere,
        })
    }

    /// Makes the key. The intent is on disk before the request and goes only when the request certainly did nothing.
    async fn make(&self, intent: &Intent, previous: &Key) -> Result<KeyVersion, KmsError> {
        let successor = self.successor(intent, previous).await?;
        self.kms.rotation.write(intent.clone()).await?;
        match self.create(&successor).await {
            Ok(key) => Ok(key.arn),
            Err(Failure::Nothing(error)) => {
                self.kms.rotation.remove().await?;
                Err(error)
            }
            // Its answer may be all that got lost.
            Err(Failure::Unknown(error)) => self.find(intent).await?.ok_or(error),
        }
    }

    async fn successor(&self, intent: &Intent, previous: &Key) -> Result<Successor, KmsError> {
        let (kms, call) = (self.kms, &self.call);
        let tags = kms.tags_of(self.retry(), call, &previous.arn).await?;
        let policy = self
            .retry()
            .run(&kms.env, call, || async {
                Ok(kms.client.policy(call, &previous.arn).await?)
            })
            .await?;
        Ok(Successor {
            tags: key::successor_tags(call, &tags, &previous.arn, &intent.rotation)?,
            policy,
            description: previous.description.clone(),
            regions: previous.regions,
        })
    }

    /// Asks for the key, and asks again only when the last request certainly did nothing.
    async fn create(&self, successor: &Successor) -> Result<Key, Failure> {
        let (kms, call) = (self.kms, &self.call);
        let open = AtomicBool::new(false);
        let made = self
            .retry()
            .run(&kms.env, call, || async {
                // The attempt before this one was cut off.
                if open.swap(true, Ordering::SeqCst) {
                    return Ok(Err(call.timeout(Retry::ROTATION.attempt)));
                }
                match kms.client.create(call, successor).await {
                    Ok(key) => Ok(Ok(key)),
                    Err(Failure::Unknown(error)) => Ok(Err(error)),
                    Err(Failure::Nothing(error)) => {
                        open.store(false, Ordering::SeqCst);
                        Err(error)
                    }
                }
            })
            .await;
        match made {
            Ok(Ok(key)) => Ok(key),
            Ok(Err(error)) => Err(Failure::Unknown(error)),
            Err(error) if open.load(Ordering::SeqCst) => Err(Failure::Unknown(error)),
            Err(error) => Err(Failure::Nothing(error)),
        }
    }

    /// Looks for the key that the rotation made. A key whose tags may not be read is none: the new key has the policy and the
    /// tags of the one before it, whose tags were read.
    async fn find(&self, intent: &Intent) -> Result<Option<KeyVersion>, KmsError> {
        let (kms, call) = (self.kms, &self.call);
        let mut marker: Option<String> = None;
        let mut searched = 0;
        loop {
            let page = self
                .retry()
                .run(&kms.env, call, || async {
                    Ok(kms.client.keys(call, marker.clone()).await?)
                })
                .await?;
            searched += page.arns.len();
            let mut looks = futures::stream::iter(page.arns)
                .map(|arn| self.made_by(intent, arn))
                .buffer_unordered(SEARCHED_AT_ONCE);
            while let Some(look) = looks.next().await {
                if let Some(found) = look? {
                    return Ok(Some(found));
                }
            }
            marker = page.next;
            if marker.is_none() {
                return Ok(None);
            }
            if searched >= MAX_KEYS_SEARCHED {
                return Err(self.pending(format!(
                    "a key tagged {ROTATION_TAG}={} is not among the first {MAX_KEYS_SEARCHED} keys of the account: move the alias to it, if there is one, or remove {}",
                    intent.rotation,
                    self.file()
                )));
            }
        }
    }

    /// The key, if the rotation made it and it can sign.
    async fn made_by(&self, intent: &Intent, arn: String) -> Result<Option<KeyVersion>, KmsError> {
        let arn = KeyVersion::new(arn)?;
        let tags = match self.kms.tags_of(self.retry(), &self.call, &arn).await {
            Ok(tags) => tags,
            Err(error) if matches!(error.label(), "forbidden" | "key_missing") => return Ok(None),
            Err(error) => return Err(error),
        };
        if tags.get(ROTATION_TAG) != Some(&intent.rotation) {
            return Ok(None);
        }
        let key = self.kms.described(self.retry(), &self.call, arn.as_str()).await?;
        Ok((key.state == KeyState::Enabled).then_some(key.arn))
    }

    async fn move_alias(&self, new: &KeyVersion) -> Result<(), KmsError> {
        let (kms, call) = (self.kms, &self.call);
        self.retry()
            .run(&kms.env, call, || async {
                let moved = kms.client.move_alias(call, self.alias, new).await;
                moved.map_err(|failure| match KmsError::from(failure) {
                    KmsError::KeyMissing { .. } => {
                        call.provider(format!("{new} is new, and AWS does not show it everywhere yet"))
                    }
                    error => error,
                })
            })
            .await
    }

    /// Returns when AWS says that the alias leads to the new key.
    async fn see_it_moved(&self, new: &KeyVersion) -> Result<(), KmsError> {
        let (kms, call) = (self.kms, &self.call);
        self.retry()
            .run(&kms.env, call, || async {
                let target = kms.client.describe(call, kms.reference.as_str()).await?;
                if target.arn == *new {
                    return Ok(());
                }
                Err(call.provider(format!(
                    "the alias was moved to {new}, and AWS does not show it yet"
                )))
            })
            .await
    }

    async fn target(&self) -> Result<Key, KmsError> {
        let reference = self.kms.reference.as_str();
        self.kms.described(self.retry(), &self.call, reference).await
    }

    /// The policy with what is left of the rotation's deadline.
    fn retry(&self) -> Retry {
        let elapsed = self.now().saturating_sub(self.start);
        Retry {
            deadline: Retry::ROTATION.deadline.saturating_sub(elapsed),
            ..Retry::ROTATION
        }
    }

    fn now(&self) -> Duration {
        self.kms.env.time.now()
    }

    fn file(&self) -> String {
        self.kms.rotation.file.path().display().to_string()
    }

    fn pending(&self, detail: String) -> KmsError {
        KmsError::RotationPending {
            call: self.call.clone(),
            detail,
        }
    }
}

/// A rotation's name, 32 hexadecimal digits: random, and another one for each key that is rotated away from.
fn name(env: &Env, alias: &str, previous: &KeyVersion) -> String {
    let mut hash = Sha256::new();
    hash.update((env.random)().to_be_bytes());
    hash.update((env.random)().to_be_bytes());
    hash.update(alias);
    hash.update([0]);
    hash.update(previous.as_str());
    let digest: [u8; 32] = hash.finalize().into();
    let (half, _) = digest.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    format!("{:032x}", u128::from_be_bytes(*half))
}
