//! The token: from a file that an agent may write anew at any time, or from the environment.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use reqwest::header::HeaderValue;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::config::VaultConfig;
use crate::{Call, Env, KmsError};

/// The longest token, in bytes. Vault's batch tokens are the longest and have a few hundred.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Gives the token to send.
pub(super) enum Tokens {
    /// `VAULT_TOKEN` as it was at the start; none when it was not set.
    Fixed(Option<Token>),
    /// A file and what was last read from it.
    File {
        path: PathBuf,
        last: Mutex<Option<(Stamp, Token)>>,
    },
}

/// A token, ready to be a header. It has no `Debug`, and the header is marked as sensitive.
#[derive(Clone, PartialEq)]
pub(super) struct Token(HeaderValue);

/// What changes when a file is written anew or replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Tokens {
    /// The token file of the configuration, else `VAULT_TOKEN`. That there is neither shows when a token is needed: a
    /// service starts while its KMS is away.
    pub(super) fn parse(config: &VaultConfig, env: &Env) -> Result<Self, KmsError> {
        if let Some(path) = &config.token_file {
            return Ok(Self::File {
                path: path.clone(),
                last: Mutex::new(None),
            });
        }
        let variable = env.variable("VAULT_TOKEN").map(Zeroizing::new);
        let token = variable.map(|text| Token::parse(&text)).transpose();
        token.map(Self::Fixed).map_err(|reason| KmsError::Setting {
            field: "VAULT_TOKEN",
            reason: reason.to_owned(),
        })
    }

    /// The token as it is now. A file is read again when it changed since the last time.
    pub(super) async fn now(&self, call: &Call) -> Result<Token, KmsError> {
        match self {
            Self::Fixed(token) => token.clone().ok_or_else(|| {
                call.unauthenticated("there is no token: set kms.token_file, or VAULT_TOKEN for the service")
            }),
            Self::File { path, last } => {
                let mut last = last.lock().await;
                let file = File::open(path).await.map_err(|e| unreadable(call, path, &e))?;
                let stamp = Stamp::of(&file).await.map_err(|e| unreadable(call, path, &e))?;
                match &*last {
                    Some((then, token)) if *then == stamp => Ok(token.clone()),
                    _ => {
                        let token = read(call, path, file).await?;
                        Ok(last.insert((stamp, token)).1.clone())
                    }
                }
            }
        }
    }

    /// The token to try after `refused` was refused, if there is another one: a file is read even if it looks unchanged.
    pub(super) async fn after(&self, call: &Call, refused: &Token) -> Result<Option<Token>, KmsError> {
        let Self::File { last, .. } = self else {
            return Ok(None);
        };
        *last.lock().await = None;
        let token = self.now(call).await?;
        Ok((token != *refused).then_some(token))
    }
}

impl Token {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if text.is_empty() {
            return Err("is empty; write the token into it");
        }
        if text.len() > MAX_TOKEN_BYTES || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err("is not a token: it is too long, or has spaces or other than ASCII characters");
        }
        let mut header =
            HeaderValue::from_str(text).map_err(|_| "is not a token: it cannot be a header's value")?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl Stamp {
    async fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata().await?;
        Ok(Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

async fn read(call: &Call, path: &Path, file: File) -> Result<Token, KmsError> {
    let limit = MAX_TOKEN_BYTES as u64 + 1;
    // Room up front: a buffer that grew would leave copies of the token behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_TOKEN_BYTES + 1));
    file.take(limit)
        .read_to_string(&mut text)
        .await
        .map_err(|e| unreadable(call, path, &e))?;
    Token::parse(&text)
        .map_err(|reason| call.unauthenticated(format!("the token file `{}` {reason}", path.display())))
}

fn unreadable(call: &Call, path: &Path, error: &io::Error) -> KmsError {
    call.unauthenticated(format!(
        "the token file `{}` cannot be read: {error}",
        path.display()
    ))
}

/// Says where tokens come from, and nothing of what they are.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(Some(_)) => f.write_str("VAULT_TOKEN"),
            Self::Fixed(None) => f.write_str("none"),
            Self::File { path, .. } => write!(f, "{}", path.display()),
        }
    }
}
