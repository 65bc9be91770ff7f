//! What went wrong on the way to a provider, from the errors of the HTTP client.

use std::error::Error;
use std::io;

use crate::{Call, KmsError};

/// The error of a request that got no whole answer.
pub(crate) fn failure(call: &Call, error: &reqwest::Error) -> KmsError {
    match tls_reason(error) {
        Some(reason) => call.tls(reason),
        None => call.unreachable(chain(error)),
    }
}

/// The causes of an error in one line, the outermost first, each only once. URLs stay out: they say nothing new.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let said = match error.downcast_ref::<reqwest::Error>() {
            Some(error) => without_url(error),
            None => error.to_string(),
        };
        if words.last().is_none_or(|before| !before.ends_with(&said)) {
            words.push(said);
        }
        next = error.source();
    }
    words.join(": ")
}

/// What TLS objected to, if it was TLS.
pub(crate) fn tls_reason(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls.to_string());
        }
        // An `io::Error` names as its source what its content is caused by, and leaves the content itself out.
        let content = error
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref());
        if let Some(tls) = content.and_then(|content| content.downcast_ref::<rustls::Error>()) {
            return Some(tls.to_string());
        }
        next = match content {
            Some(content) => Some(content),
            None => error.source(),
        };
    }
    None
}

fn without_url(error: &reqwest::Error) -> String {
    let text = error.to_string();
    match error.url() {
        Some(url) => text.replace(&format!(" for url ({url})"), ""),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connection_is_told_in_one_line_without_repeating_itself() {
        let call = Call::new("vault", "read", "transit/keys/knhk");
        // Nothing listens on the port of tcpmux.
        let error = reqwest::get("http://127.0.0.1:1/secret/path")
            .await
            .expect_err("refused");
        let error = failure(&call, &error);
        assert_eq!(error.label(), "unreachable");
        let text = error.to_string();
        assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
        assert!(!text.contains("secret") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn tls_is_found_inside_of_an_io_error() {
        let inner = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = io::Error::other(io::Error::other(inner.clone()));
        assert_eq!(tls_reason(&error), Some(inner.to_string()));
        assert_eq!(tls_reason(&io::Error::other("the disk is full")), None);
    }
}
