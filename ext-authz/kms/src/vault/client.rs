//! One request to Vault and its whole answer.

use std::fmt;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{RequestBuilder, StatusCode, Url, redirect, retry};
use serde::Serialize;

use super::answer;
use super::config::{self, Place, VaultConfig};
use super::token::{Token, Tokens};
use crate::network;
use crate::{Call, Env, KmsError};

/// The largest answer that is read, in bytes. A key takes about 350 bytes for each of its versions.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Vault's agents and proxies ask for it, as a guard against requests that a browser was tricked into.
const IS_REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

pub(super) struct Client {
    http: reqwest::Client,
    tokens: Tokens,
    namespace: Option<HeaderValue>,
}

/// What a request came to.
pub(super) enum Failure {
    /// Vault answered, and not with 2xx. What it was asked to do is over.
    Answered { status: StatusCode, error: KmsError },
    /// The request cannot have reached Vault.
    NotSent(KmsError),
    /// There was no whole answer of Vault's, so whether it acts or has acted is not known.
    Unknown(KmsError),
}

impl Failure {
    pub(super) fn into_error(self) -> KmsError {
        match self {
            Self::Answered { error, .. } | Self::NotSent(error) | Self::Unknown(error) => error,
        }
    }
}

/// Whether an answer to sign with this status can mean that the key is gone, of another type, or lacks the version.
pub(super) fn may_be_the_keys_fault(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR
    )
}

impl Client {
    pub(super) fn new(config: &VaultConfig, place: &Place, env: &Env) -> Result<Self, KmsError> {
        let builder = reqwest::Client::builder()
            .retry(retry::never())
            .redirect(redirect::Policy::none())
            .no_proxy();
        let builder = match config::authorities(config, env)? {
            Some(authorities) => builder.tls_certs_only(authorities),
            // Without TLS the system's authorities need not be there.
            None if !place.is_tls() => builder.tls_certs_only([]),
            None => builder,
        };
        let http = builder.build().map_err(|error| KmsError::Setting {
            field: "kms.ca_file",
            reason: network::chain(&error),
        })?;
        let namespace = place.namespace.as_deref().map(HeaderValue::from_str).transpose();
        Ok(Self {
            http,
            tokens: Tokens::parse(config, env)?,
            namespace: namespace.map_err(|error| KmsError::Setting {
                field: "kms.namespace",
                reason: error.to_string(),
            })?,
        })
    }

    pub(super) async fn get(&self, call: &Call, url: Url) -> Result<Vec<u8>, Failure> {
        self.send(call, &self.http.get(url)).await
    }

    pub(super) async fn post(
        &self,
        call: &Call,
        url: Url,
        body: &impl Serialize,
    ) -> Result<Vec<u8>, Failure> {
        self.send(call, &self.http.post(url).json(body)).await
    }

    /// Sends it with the token, and once more when that was refused and the file holds another one by now.
    async fn send(&self, call: &Call, request: &RequestBuilder) -> Result<Vec<u8>, Failure> {
        let token = self.tokens.now(call).await.map_err(Failure::NotSent)?;
        match self.send_with(call, request, &token).await {
            Err(Failure::Answered { status, error }) if status == StatusCode::FORBIDDEN => {
                match self.tokens.after(call, &token).await.map_err(Failure::NotSent)? {
                    Some(token) => self.send_with(call, request, &token).await,
                    None => Err(Failure::Answered { status, error }),
                }
            }
            result => result,
        }
    }

    async fn send_with(
        &self,
        call: &Call,
        request: &RequestBuilder,
        token: &Token,
    ) -> Result<Vec<u8>, Failure> {
        let mut request = request
            .try_clone()
            .expect("a body in memory can be sent twice")
            .header(TOKEN, token.header())
            .header(IS_REQUEST, "true");
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace);
        }
        let response = request.send().await.map_err(|error| {
            let failure = network::failure(call, &error);
            if error.is_connect() || error.is_builder() {
                Failure::NotSent(failure)
            } else {
                Failure::Unknown(failure)
            }
        })?;
        let status = response.status();
        let body = whole(call, response).await.map_err(Failure::Unknown)?;
        if status.is_success() {
            return Ok(body);
        }
        let error = answer::refusal(call, status, &body);
        Err(match status {
            // A proxy's words about Vault, which may still be at work.
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Failure::Unknown(error),
            _ => Failure::Answered { status, error },
        })
    }
}

/// The body, unless it is longer than [`MAX_ANSWER_BYTES`].
async fn whole(call: &Call, mut response: reqwest::Response) -> Result<Vec<u8>, KmsError> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| network::failure(call, &error))?
    {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(call.malformed_answer(format!("it has more than {MAX_ANSWER_BYTES} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("token", &self.tokens)
            .finish_non_exhaustive()
    }
}
