//! What a request to AWS that failed says.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use hyper_util::client::legacy;

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

/// A request does nothing when there was no credential to sign it with or no connection to send it on. Whatever broke on a
/// connection, TLS included, may have broken after the request had got there.
fn no_answer(call: &Call, error: &(dyn Error + 'static)) -> Failure {
    let unsigned = cause::<CredentialsError>(error).is_some();
    let unconnected = cause::<legacy::Error>(error).is_some_and(legacy::Error::is_connect);
    let words = network::chain(error);
    let told = match network::tls_reason(error) {
        Some(reason) => call.tls(reason),
        None if unsigned => call.unauthenticated(words),
        None => call.unreachable(words),
    };
    if unsigned || unconnected {
        Failure::Nothing(told)
    } else {
        Failure::Unknown(told)
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
    use std::io::{self, Read as _, Write as _};
    use std::net::TcpListener;

    use aws_config::retry::RetryConfig;
    use aws_config::{BehaviorVersion, Region};
    use aws_sdk_kms::config::Credentials;

    use super::*;

    fn call() -> Call {
        Call::new("aws", "rotate", "alias/knhk")
    }

    /// What a request to this address comes to, over the SDK's own client.
    async fn asked(endpoint: String) -> Failure {
        let config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .retry_config(RetryConfig::disabled())
            .endpoint_url(endpoint)
            .build();
        let answer = aws_sdk_kms::Client::from_conf(config).create_key().send().await;
        failure(&call(), &answer.expect_err("nobody answers as AWS does"))
    }

    /// A peer that takes one connection, reads what comes first, writes this and hangs up.
    fn peer(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().expect("a connection");
            let mut request = [0; 16 * 1024];
            let _ = connection.read(&mut request).expect("a request");
            connection.write_all(answer).expect("it is sent");
        });
        address.to_string()
    }

    #[tokio::test]
    async fn only_a_request_that_no_connection_was_made_for_did_certainly_nothing() {
        // Nothing listens on the port of tcpmux.
        let refused = asked("http://127.0.0.1:1".to_owned()).await;
        assert!(
            matches!(refused, Failure::Nothing(KmsError::Unreachable { .. })),
            "{refused:?}"
        );
        let no_tls = asked(format!("https://{}", peer(b"no TLS here"))).await;
        assert!(
            matches!(no_tls, Failure::Nothing(KmsError::Tls { .. })),
            "{no_tls:?}"
        );
        let hung_up = asked(format!("http://{}", peer(b""))).await;
        assert!(
            matches!(hung_up, Failure::Unknown(KmsError::Unreachable { .. })),
            "{hung_up:?}"
        );
    }

    #[test]
    fn what_breaks_on_a_connection_leaves_it_open_whether_the_request_got_there() {
        let broken = io::Error::other(rustls::Error::DecryptError);
        let broken = no_answer(&call(), &broken);
        assert!(
            matches!(broken, Failure::Unknown(KmsError::Tls { .. })),
            "{broken:?}"
        );
        for kind in [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::NetworkUnreachable,
        ] {
            let lost = no_answer(&call(), &io::Error::from(kind));
            assert!(
                matches!(lost, Failure::Unknown(KmsError::Unreachable { .. })),
                "{lost:?}"
            );
        }
    }

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
