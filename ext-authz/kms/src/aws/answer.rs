//! What a request to AWS that failed says.

use std::error::Error;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use crate::network;
use crate::{Call, KmsError};

/// What a request came to.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request did nothing: AWS refused it, or it cannot have got there.
    Nothing(KmsError),
    /// There was no whole answer, or AWS says that it failed: whether it acted is not known.
    Unknown(KmsError),
}

impl From<Failure> for KmsError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Nothing(error) | Failure::Unknown(error) => error,
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
pub(super) fn failure<E>(call: &Call, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: Error + ProvideErrorMetadata + 'static,
{
    match error {
        // The SDK takes a body that it cannot read for an error of the service.
        SdkError::ServiceError(answer) if answer.raw().status().is_success() => {
            Failure::Unknown(call.malformed_answer(network::chain(answer.err())))
        }
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let error = answer.err();
            refusal(call, status, error.code().unwrap_or_default(), error.message())
        }
        SdkError::ResponseError(answer) if answer.raw().status().as_u16() >= 500 => {
            Failure::Unknown(call.provider(answer.raw().status()))
        }
        SdkError::ResponseError(_) => Failure::Unknown(call.malformed_answer(network::chain(error))),
        // The credential, the signature over the request, the region or the connection.
        _ => no_answer(call, error),
    }
}

/// What an answer with an error in it says. The codes are those of the API reference and of its common errors; the SDK has no
/// name of its own for some of them, `ThrottlingException` first of all.
fn refusal(call: &Call, status: u16, code: &str, message: Option<&str>) -> Failure {
    let words = match message {
        Some(message) if !message.is_empty() => format!("{code}: {message}"),
        _ if code.is_empty() => format!("status {status}"),
        _ => code.to_owned(),
    };
    Failure::Nothing(match code {
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "RequestLimitExceeded"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "SlowDown" => call.throttled(words),
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" | "OptInRequired" => call.forbidden(words),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "RequestExpired"
        | "IncompleteSignature"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => call.unauthenticated(words),
        "DisabledException" | "KMSInvalidStateException" => call.key_disabled(words),
        "NotFoundException" => call.key_missing(words),
        "InvalidKeyUsageException" | "UnsupportedOperationException" => {
            call.wrong_key_type(format!("refused by AWS ({words})"))
        }
        "KMSInternalException"
        | "DependencyTimeoutException"
        | "KeyUnavailableException"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => {
            return Failure::Unknown(call.provider(words));
        }
        _ if status == 429 => call.throttled(words),
        _ if status >= 500 => return Failure::Unknown(call.provider(words)),
        _ => call.refused(words),
    })
}

fn no_answer(call: &Call, error: &(dyn Error + 'static)) -> Failure {
    let words = network::chain(error);
    if let Some(reason) = network::tls_reason(error) {
        return Failure::Nothing(call.tls(reason));
    }
    if cause::<CredentialsError>(error).is_some() {
        return Failure::Nothing(call.unauthenticated(words));
    }
    match cause::<io::Error>(error).map(io::Error::kind) {
        Some(
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable,
        ) => Failure::Nothing(call.unreachable(words)),
        _ => Failure::Unknown(call.unreachable(words)),
    }
}

/// The first error of this type among the causes.
fn cause<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_aws_has_a_label_and_says_whether_it_is_certain() {
        for (status, code, label, certain) in [
            (400, "ThrottlingException", "throttled", true),
            (429, "", "throttled", true),
            (400, "AccessDeniedException", "forbidden", true),
            (403, "UnrecognizedClientException", "unauthenticated", true),
            (400, "ExpiredTokenException", "unauthenticated", true),
            (400, "DisabledException", "key_disabled", true),
            (400, "KMSInvalidStateException", "key_disabled", true),
            (400, "NotFoundException", "key_missing", true),
            (400, "InvalidKeyUsageException", "wrong_key_type", true),
            (400, "UnsupportedOperationException", "wrong_key_type", true),
            (400, "LimitExceededException", "refused", true),
            (400, "ValidationException", "refused", true),
            (500, "KMSInternalException", "provider", false),
            (500, "KeyUnavailableException", "provider", false),
            (503, "", "provider", false),
        ] {
            let call = Call::new("aws", "sign with", "alias/knhk");
            let failure = refusal(&call, status, code, Some("because"));
            assert_eq!(matches!(failure, Failure::Nothing(_)), certain, "{code}");
            let error = KmsError::from(failure);
            assert_eq!(error.label(), label, "{code}");
            assert!(error.to_string().contains("because"), "{error}");
        }
    }
}
