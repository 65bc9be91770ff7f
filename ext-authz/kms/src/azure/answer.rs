//! What Key Vault answers, parsed, and what a request that failed says. Nothing here talks to anybody.

use azure_core::error::ErrorKind;
use azure_core::http::StatusCode;
use azure_security_keyvault_keys::models::{
    CurveName, JsonWebKey, Key as KeyBundle, KeyAttributes, KeyOperation, KeyOperationResult, KeyProperties,
    KeyType,
};
use p256::ecdsa::VerifyingKey;
use serde::Deserialize;

use super::place::Place;
use crate::network;
use crate::{Call, KeyState, KeyVersion, KmsError, Signature, Spki, VersionInfo};

/// A version of the key.
pub(super) struct Key {
    pub(super) public: Spki,
    pub(super) known: Known,
}

/// What is listed about a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) version: KeyVersion,
    pub(super) created_unix_ms: Option<u64>,
    pub(super) state: KeyState,
}

impl From<Known> for VersionInfo {
    fn from(known: Known) -> Self {
        Self {
            version: known.version,
            created_unix_ms: known.created_unix_ms,
        }
    }
}

impl Key {
    /// Parses a version as `get` and `rotate` answer with it.
    pub(super) fn parse(call: &Call, place: &Place, bundle: KeyBundle) -> Result<Self, KmsError> {
        let jwk = bundle
            .key
            .ok_or_else(|| call.malformed_answer("a key without its JSON Web Key"))?;
        let version = place.version(call, jwk.kid.as_deref())?;
        Ok(Self {
            public: public(call, &jwk)?,
            known: Known::new(version, bundle.attributes.as_ref()),
        })
    }
}

impl Known {
    fn new(version: KeyVersion, attributes: Option<&KeyAttributes>) -> Self {
        let created = attributes.and_then(|attributes| attributes.created);
        Self {
            version,
            created_unix_ms: created
                .and_then(|time| u64::try_from(time.unix_timestamp()).ok())
                .and_then(|seconds| seconds.checked_mul(1000)),
            // Azure's default is enabled.
            state: match attributes.and_then(|attributes| attributes.enabled) {
                Some(false) => KeyState::Disabled,
                _ => KeyState::Enabled,
            },
        }
    }

    /// Parses an entry of the list of versions.
    pub(super) fn parse(call: &Call, place: &Place, properties: &KeyProperties) -> Result<Self, KmsError> {
        let version = place.version(call, properties.kid.as_deref())?;
        Ok(Self::new(version, properties.attributes.as_ref()))
    }
}

/// The public key in a JSON Web Key (RFC 7518, 6.2).
fn public(call: &Call, jwk: &JsonWebKey) -> Result<Spki, KmsError> {
    let signs = jwk.key_ops.as_ref().is_none_or(|ops| {
        // Key Vault lists what a key may be used for; without a list it may be used for everything.
        ops.is_empty() || ops.iter().any(|op| op == KeyOperation::Sign.as_ref())
    });
    let p256 = jwk.crv == Some(CurveName::P256);
    match &jwk.kty {
        Some(KeyType::Ec | KeyType::EcHsm) if p256 && signs => {}
        Some(kind) => {
            let curve = jwk.crv.as_ref().map_or(String::new(), |crv| format!(" on {crv}"));
            let use_of = if signs { "" } else { " that does not sign" };
            return Err(call.wrong_key_type(format!("{kind}{curve}{use_of}")));
        }
        None => return Err(call.malformed_answer("a key without a type")),
    }
    let (Some(x), Some(y)) = (&jwk.x, &jwk.y) else {
        return Err(call.malformed_answer("an EC key without x and y"));
    };
    if x.len() != 32 || y.len() != 32 {
        return Err(call.malformed_answer("an EC key whose x or y has not 32 bytes"));
    }
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    let key = VerifyingKey::from_sec1_bytes(&point)
        .map_err(|_| call.malformed_answer("an EC key whose x and y are not on P-256"))?;
    Spki::from_key(key)
}

/// Parses the answer of sign: raw r || s, by exactly this version.
pub(super) fn signature(
    call: &Call,
    place: &Place,
    asked: &KeyVersion,
    answer: KeyOperationResult,
) -> Result<Signature, KmsError> {
    let version = place.version(call, answer.kid.as_deref())?;
    if version != *asked {
        return Err(call.other_version(asked, version));
    }
    let raw = answer.result.unwrap_or_default();
    let raw: &[u8; 64] = raw
        .as_slice()
        .try_into()
        .map_err(|_| call.malformed_answer(format!("the signature has {} bytes, not 64", raw.len())))?;
    Signature::from_raw(raw)
}

/// What a request came to.
#[derive(Debug)]
pub(super) enum Failure {
    /// Key Vault refused, or the request cannot have got there: it did nothing.
    Nothing(KmsError),
    /// As [`Failure::Nothing`], with an answer that has several reasons.
    Ambiguous(KmsError),
    /// There was no whole answer, or Key Vault says that it failed: whether it acted is not known.
    Unknown(KmsError),
}

impl From<Failure> for KmsError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Nothing(error) | Failure::Ambiguous(error) | Failure::Unknown(error) => error,
        }
    }
}

impl From<KmsError> for Failure {
    /// An error that is found in a whole answer.
    fn from(error: KmsError) -> Self {
        Self::Unknown(error)
    }
}

/// Reads the SDK's error.
pub(super) fn failure(call: &Call, error: &azure_core::Error) -> Failure {
    match error.kind() {
        ErrorKind::HttpResponse {
            status, raw_response, ..
        } => {
            let body = raw_response.as_ref().map_or(&[][..], |raw| raw.body().as_ref());
            refusal(call, *status, body)
        }
        // The request to the vault was not sent without a token.
        ErrorKind::Credential => Failure::Nothing(no_token(call, error)),
        ErrorKind::Connection => Failure::Nothing(no_answer(call, error)),
        ErrorKind::Io => Failure::Unknown(no_answer(call, error)),
        ErrorKind::DataConversion | ErrorKind::Other => {
            Failure::Unknown(call.malformed_answer(network::chain(error)))
        }
    }
}

/// The body of an answer that is not 200.
#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

#[derive(Default, Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(alias = "innerError")]
    innererror: Option<Box<Reason>>,
}

fn refusal(call: &Call, status: StatusCode, body: &[u8]) -> Failure {
    let reason = serde_json::from_slice::<Refusal>(body).map_or(Reason::default(), |body| body.error);
    let inner = reason.innererror.map_or(String::new(), |inner| inner.code);
    let words = [
        u16::from(status).to_string(),
        reason.code,
        inner.clone(),
        reason.message,
    ]
    .into_iter()
    .filter(|word| !word.is_empty())
    .collect::<Vec<_>>()
    .join(" ");
    match u16::from(status) {
        401 => Failure::Nothing(call.unauthenticated(words)),
        403 if inner == "KeyDisabled" || words.contains("disabled key") => {
            Failure::Nothing(call.key_disabled(words))
        }
        403 => Failure::Nothing(call.forbidden(words)),
        404 => Failure::Ambiguous(call.key_missing(words)),
        // The key is being deleted, or is in the vault's bin.
        409 => Failure::Nothing(call.key_missing(words)),
        429 => Failure::Nothing(call.throttled(words)),
        400 => Failure::Ambiguous(call.refused(words)),
        500.. => Failure::Unknown(call.provider(words)),
        _ => Failure::Nothing(call.refused(words)),
    }
}

/// Why there is no token: the cause under what the credential says about itself.
fn no_token(call: &Call, error: &azure_core::Error) -> KmsError {
    let text = error.to_string();
    let words = text.split("\nTo troubleshoot").next().unwrap_or_default();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<azure_core::Error>() {
            match error.kind() {
                ErrorKind::Connection | ErrorKind::Io => return no_answer(call, error),
                ErrorKind::HttpResponse { status, .. } => {
                    return match u16::from(*status) {
                        429 => call.throttled(words),
                        500.. => call.provider(words),
                        _ => call.unauthenticated(words),
                    };
                }
                _ => {}
            }
        }
        cause = error.source();
    }
    call.unauthenticated(words)
}

fn no_answer(call: &Call, error: &azure_core::Error) -> KmsError {
    match network::tls_reason(error) {
        Some(reason) => call.tls(reason),
        None => call.unreachable(network::chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::AzureConfig;

    const VERSION: &str = "0123456789abcdef0123456789abcdef";

    fn place() -> Place {
        Place::parse(&AzureConfig {
            vault_url: "https://v.vault.azure.net".to_owned(),
            key_name: "knhk".to_owned(),
            ..AzureConfig::default()
        })
        .expect("good")
    }

    fn call() -> Call {
        Call::new("azure", "sign with", place())
    }

    fn generator() -> JsonWebKey {
        let point = p256::AffinePoint::GENERATOR;
        let key = VerifyingKey::from_affine(point).expect("a point");
        let sec1 = key.to_sec1_point(false);
        JsonWebKey {
            kty: Some(KeyType::EcHsm),
            crv: Some(CurveName::P256),
            x: sec1.x().map(|x| x.to_vec()),
            y: sec1.y().map(|y| y.to_vec()),
            ..JsonWebKey::default()
        }
    }

    #[test]
    fn a_json_web_key_is_the_key_that_its_numbers_say() {
        let key = VerifyingKey::from_affine(p256::AffinePoint::GENERATOR).expect("a point");
        let spki = public(&call(), &generator()).expect("good");
        assert_eq!(spki.der(), Spki::from_key(key).expect("good").der());
    }

    #[test]
    fn keys_of_other_types_and_broken_ones_are_told_apart() {
        let changed = |change: fn(&mut JsonWebKey)| {
            let mut jwk = generator();
            change(&mut jwk);
            public(&call(), &jwk).expect_err("refused").label()
        };
        assert_eq!(changed(|jwk| jwk.kty = Some(KeyType::Rsa)), "wrong_key_type");
        assert_eq!(changed(|jwk| jwk.crv = Some(CurveName::P384)), "wrong_key_type");
        assert_eq!(
            changed(|jwk| jwk.key_ops = Some(vec!["verify".to_owned()])),
            "wrong_key_type"
        );
        assert_eq!(changed(|jwk| jwk.kty = None), "malformed_answer");
        assert_eq!(changed(|jwk| jwk.x = None), "malformed_answer");
        assert_eq!(changed(|jwk| jwk.x = Some(vec![1; 31])), "malformed_answer");
        assert_eq!(changed(|jwk| jwk.y = Some(vec![1; 32])), "malformed_answer");
    }

    #[test]
    fn a_signature_by_another_version_is_not_taken() {
        let answer = |version: &str, bytes: usize| {
            let mut answer = KeyOperationResult::default();
            answer.kid = Some(format!("https://v.vault.azure.net/keys/knhk/{version}"));
            answer.result = Some(vec![1; bytes]);
            let asked = KeyVersion::new(VERSION).expect("a version");
            signature(&call(), &place(), &asked, answer)
        };
        assert!(answer(VERSION, 64).is_ok());
        let other = answer("ffffffffffffffffffffffffffffffff", 64).expect_err("refused");
        assert_eq!(other.label(), "other_version");
        assert_eq!(
            answer(VERSION, 63).expect_err("refused").label(),
            "malformed_answer"
        );
    }

    #[test]
    fn every_refusal_has_a_label_and_says_whether_it_is_certain() {
        let body = |code: &str, inner: &str| {
            format!(
                r#"{{"error":{{"code":"{code}","message":"because","innererror":{{"code":"{inner}"}}}}}}"#
            )
        };
        for (status, code, inner, label, certain) in [
            (401, "Unauthorized", "", "unauthenticated", true),
            (403, "Forbidden", "KeyDisabled", "key_disabled", true),
            (403, "Forbidden", "ForbiddenByRbac", "forbidden", true),
            (404, "KeyNotFound", "", "key_missing", true),
            (409, "Conflict", "ObjectIsBeingDeleted", "key_missing", true),
            (
                429,
                "Throttled",
                "VaultRequestTypeLimitReached",
                "throttled",
                true,
            ),
            (400, "BadParameter", "", "refused", true),
            (418, "", "", "refused", true),
            (500, "InternalServerError", "", "provider", false),
            (503, "", "", "provider", false),
        ] {
            let failure = refusal(&call(), StatusCode::from(status), body(code, inner).as_bytes());
            assert_eq!(!matches!(failure, Failure::Unknown(_)), certain, "{status}");
            let error = KmsError::from(failure);
            assert_eq!(error.label(), label, "{status}");
            assert!(error.to_string().contains("because"), "{error}");
        }
        let error = KmsError::from(refusal(&call(), StatusCode::from(502), b"<html>"));
        assert_eq!(error.label(), "provider");
    }
}
