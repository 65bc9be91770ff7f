//! What an error of a provider says about the exchange that failed.

use std::fmt;
use std::time::Duration;

use crate::{KeyVersion, KmsError};

/// One exchange with a provider: who was asked to do what with which key. Every error of a provider begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    provider: &'static str,
    action: &'static str,
    key: Detail,
}

impl Call {
    /// `provider` is the part of the configuration (`vault`), `action` ends before the key's name (`sign with`), `key` is
    /// how the provider's users name the key (`transit/keys/knhk`).
    pub fn new(provider: &'static str, action: &'static str, key: impl fmt::Display) -> Self {
        Self {
            provider,
            action,
            key: Detail::new(key),
        }
    }

    /// The provider asked for fewer calls.
    pub fn throttled(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::Throttled {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// The credential is good and may not do this.
    pub fn forbidden(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::Forbidden {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// There is no credential, or the provider does not take it.
    pub fn unauthenticated(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::Unauthenticated {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// The key or the version is there and is switched off.
    pub fn key_disabled(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::KeyDisabled {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// There is no such key.
    pub fn key_missing(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::KeyMissing {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// The key is not an ECDSA P-256 key that signs; `found` says what it is.
    pub fn wrong_key_type(&self, found: impl fmt::Display) -> KmsError {
        KmsError::WrongKeyType {
            call: self.clone(),
            found: Detail::new(found),
        }
    }

    /// No answer came within `after`.
    pub fn timeout(&self, after: Duration) -> KmsError {
        KmsError::Timeout {
            call: self.clone(),
            after,
        }
    }

    /// What came before has used up the time for this, so that it was not asked.
    pub fn no_time_left(&self) -> KmsError {
        KmsError::NoTimeLeft { call: self.clone() }
    }

    /// No connection, or it broke before the answer was whole.
    pub fn unreachable(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::Unreachable {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// The two sides could not agree on TLS, mostly because a certificate is not trusted.
    pub fn tls(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::Tls {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// The answer is not in the provider's documented form.
    pub fn malformed_answer(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::MalformedAnswer {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// The provider says that it failed.
    pub fn provider(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::Provider {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// The provider refused for a reason that has no variant of its own.
    pub fn refused(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::Refused {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// The provider, or this key of it, cannot do what was asked.
    pub fn unsupported(&self, detail: impl fmt::Display) -> KmsError {
        KmsError::Unsupported {
            call: self.clone(),
            detail: Detail::new(detail),
        }
    }

    /// The answer was made with another version than the one that was asked for.
    pub fn other_version(&self, asked: &KeyVersion, answered: impl fmt::Display) -> KmsError {
        KmsError::OtherVersion {
            call: self.clone(),
            asked: asked.clone(),
            answered: Detail::new(answered),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kms.{}: cannot {} `{}`", self.provider, self.action, self.key)
    }
}

/// Foreign text made fit for one line of an error: at most [`Detail::MAX_CHARS`] characters, none of them a control character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail(String);

impl Detail {
    /// The most characters that are kept of foreign text.
    pub const MAX_CHARS: usize = 200;

    /// Takes text as it comes. Never give it a secret.
    pub fn new(text: impl fmt::Display) -> Self {
        let text = text.to_string();
        let words = text.split(|c: char| c.is_whitespace() || c.is_control());
        let line = words
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ");
        let mut kept: String = line.chars().take(Self::MAX_CHARS).collect();
        if kept.len() < line.len() {
            kept.push('…');
        }
        Self(kept)
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn foreign_text_becomes_one_bounded_line(text in any::<String>()) {
            let detail = Detail::new(&text).to_string();
            prop_assert!(!detail.contains(char::is_control), "{detail:?}");
            prop_assert!(detail.chars().count() <= Detail::MAX_CHARS + 1);
        }
    }

    #[test]
    fn an_error_names_provider_action_and_key() {
        let call = Call::new("vault", "sign with", "transit/keys/knhk");
        let text = call.throttled("429:\n slow\tdown").to_string();
        assert!(
            text.starts_with("kms.vault: cannot sign with `transit/keys/knhk`: "),
            "{text}"
        );
        assert!(text.contains("429: slow down"), "{text}");
    }
}
