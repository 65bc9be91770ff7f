//! Peers over HTTP, with mutual TLS where a configuration for it is given.

use std::time::Duration;

use async_trait::async_trait;
use knhk_receipts::DecodeError;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use rustls::{AlertDescription, CertificateError};

use super::{Transport, TransportError};
use crate::wire::{Answer, MAX_ANSWER_BYTES, MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, Message};

/// How long connecting may take.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long a peer has to take in a batch and answer: more than a slow link and a slow disk take for the largest one.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What every body is.
const CBOR: &str = "application/cbor";

/// A peer at an address. Connects on the first call, and keeps its connections.
#[derive(Clone, Debug)]
pub struct HttpPeer {
    http: Client,
    base: String,
}

impl HttpPeer {
    /// `base` is the peer's validated `url`. With `tls`, which says who we are and whom we believe, only `https` is
    /// spoken.
    pub fn new(base: &str, tls: Option<rustls::ClientConfig>) -> Result<Self, TransportError> {
        let builder = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        let builder = match tls {
            Some(config) => builder.tls_backend_preconfigured(config).https_only(true),
            None => builder,
        };
        let http = builder.build().map_err(|error| TransportError::Connect {
            reason: cause(&error),
        })?;
        let base = base.to_owned();
        Ok(Self { http, base })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }
}

#[async_trait]
impl Transport for HttpPeer {
    async fn receipts(&self, batch: Vec<u8>) -> Result<Answer, TransportError> {
        let request = self
            .request(Method::POST, "/v1/receipts")
            .header("content-type", CBOR);
        let response = send(request.body(batch)).await?;
        // A refusal says in its body why, and what is held.
        let response = match response.status() {
            StatusCode::CONFLICT => response,
            _ => successful(response)?,
        };
        Answer::from_bytes(&body(response, MAX_ANSWER_BYTES).await?).map_err(unreadable)
    }

    async fn replicate(&self, message: &Message) -> Result<Message, TransportError> {
        let request = self
            .request(Method::POST, "/v1/replicate")
            .header("content-type", CBOR);
        let response = successful(send(request.body(message.to_bytes())).await?)?;
        Message::from_bytes(&body(response, MAX_MESSAGE_BYTES).await?).map_err(unreadable)
    }

    async fn held(&self, region: &str) -> Result<Answer, TransportError> {
        let request = self.request(Method::GET, &format!("/v1/log/{region}/held"));
        let response = successful(send(request).await?)?;
        Answer::from_bytes(&body(response, MAX_ANSWER_BYTES).await?).map_err(unreadable)
    }

    async fn entries(&self, region: &str, from: u64) -> Result<Vec<u8>, TransportError> {
        let request = self.request(Method::GET, &format!("/v1/log/{region}/entries/{from}"));
        body(successful(send(request).await?)?, MAX_BATCH_BYTES).await
    }
}

async fn send(request: RequestBuilder) -> Result<Response, TransportError> {
    request.send().await.map_err(|error| failed(&error))
}

fn successful(response: Response) -> Result<Response, TransportError> {
    let status = response.status();
    match status {
        _ if status.is_success() => Ok(response),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(TransportError::NotAllowed {
            said: format!("HTTP {}", status.as_u16()),
        }),
        _ => Err(TransportError::Status {
            status: status.as_u16(),
        }),
    }
}

/// Reads a body of at most `most` bytes, and not one more.
async fn body(mut response: Response, most: usize) -> Result<Vec<u8>, TransportError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if bytes.len() + chunk.len() > most {
            let reason = format!("it has more than {most} bytes");
            return Err(TransportError::Unreadable { reason });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn failed(error: &reqwest::Error) -> TransportError {
    let reason = cause(error);
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
            return TransportError::Stranger;
        }
        Some(rustls::Error::AlertReceived(AlertDescription::AccessDenied)) => {
            let said = "TLS alert access_denied".to_owned();
            return TransportError::NotAllowed { said };
        }
        _ => {}
    }
    if error.is_timeout() {
        let seconds = ANSWER_WITHIN.as_secs();
        TransportError::Timeout { seconds }
    } else if error.is_connect() {
        TransportError::Connect { reason }
    } else {
        TransportError::Broken { reason }
    }
}

/// What TLS has against the connection, if that is what broke it.
fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    // An error that came through a socket is inside of one of the system's, which does not call it its source.
    let within = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        .and_then(|inner| tls_error(inner));
    error
        .downcast_ref::<rustls::Error>()
        .or(within)
        .or_else(|| error.source().and_then(tls_error))
}

/// The innermost reason, in one line: the outer ones repeat the address.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().replace(['\n', '\r'], " ")
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unreadable(error: DecodeError) -> TransportError {
    TransportError::Unreadable {
        reason: error.to_string(),
    }
}
