//! The HTTP client under the SDK: TLS with the authorities that are configured, bounded answers, no redirects and no retries.

use async_trait::async_trait;
use azure_core::http::{AsyncRawResponse, HttpClient, Request};
use futures::StreamExt as _;
use reqwest::{redirect, retry};

use super::AzureConfig;
use super::place::Place;
use crate::address::{self, setting};
use crate::{KmsError, network};

/// The largest answer that is read, in bytes. A page of 25 versions has about 10 thousand.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Sends requests for the SDK.
#[derive(Debug)]
pub(super) struct Http(reqwest::Client);

impl Http {
    pub(super) fn new(config: &AzureConfig, place: &Place) -> Result<Self, KmsError> {
        let mut builder = reqwest::Client::builder()
            .retry(retry::never())
            .redirect(redirect::Policy::none());
        if let Some(file) = &config.ca_file {
            builder = builder.tls_certs_merge(address::authorities("kms.ca_file", file)?);
        }
        // A proxy of the environment leads out of the machine.
        if address::is_loopback(&place.vault) {
            builder = builder.no_proxy();
        }
        builder
            .build()
            .map(Self)
            .map_err(|error| setting("kms.ca_file", network::chain(&error)))
    }
}

#[async_trait]
impl HttpClient for Http {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let (status, headers, body) = self.0.execute_request(request).await?.deconstruct();
        let mut left = MAX_ANSWER_BYTES;
        let bounded = body.map(move |chunk| {
            let chunk = chunk?;
            left = left.checked_sub(chunk.len()).ok_or_else(too_large)?;
            Ok(chunk)
        });
        Ok(AsyncRawResponse::new(status, headers, Box::pin(bounded)))
    }
}

fn too_large() -> azure_core::Error {
    azure_core::Error::with_message(
        azure_core::error::ErrorKind::DataConversion,
        format!("the answer has more than {MAX_ANSWER_BYTES} bytes"),
    )
}
