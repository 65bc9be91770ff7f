//! A region's log as a service publishes it, for an audit.

use std::sync::OnceLock;
use std::time::Duration;

use knhk_receipts::audit::{BundleReader, Content, EachEntry, Extent, ReadError, Source};
use knhk_receipts::bundle;
use reqwest::{Method, Response, StatusCode};
use tokio::runtime::Handle;

use super::client::Client;
use super::credentials::CredentialArgs;
use super::{Failure, ServerArgs};
use crate::api::{ReceiptList, in_one_line};

/// Entries of a bundle.
const WIDTH: u64 = 256;

/// How often a file is asked for before it counts as not readable.
const ATTEMPTS: u32 = 6;

/// The first pause between two attempts; each further one is twice as long, up to [`MAX_PAUSE`]. Of each a random part is
/// waited, so that the threads do not come back at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(3);

/// How an address names a log itself.
const LOG_PATH: &str = "/v1/log/";

/// A log behind an address. Its threads block on the requests they make.
pub(super) struct Published {
    client: Client,
    /// Up to the log's files.
    base: String,
    runtime: Handle,
    signed: OnceLock<u64>,
}

/// Why one attempt gave nothing.
enum Attempt {
    /// Another one may.
    Again(String),
    Never(String),
}

impl Published {
    /// `unix:PATH`, `https://HOST:PORT`, or that with `/v1/log/REGION`. Without a region the service is asked for its own.
    pub(super) async fn open(
        address: &str,
        region: Option<&str>,
        credentials: &CredentialArgs,
    ) -> Result<Self, Failure> {
        let (server, named) = match address.split_once(LOG_PATH) {
            Some((server, named)) => (server, Some(named.trim_end_matches('/'))),
            None => (address, None),
        };
        let client = Client::patient(&ServerArgs::to(server, credentials)).await?;
        let region = match (region, named) {
            (Some(region), Some(named)) if region != named => {
                let message = format!("{address}: it names the region `{named}`, and --region is `{region}`");
                return Err(Failure::new(message));
            }
            (Some(region), _) | (None, Some(region)) => region.to_owned(),
            (None, None) => own_region(&client, address).await?,
        };
        Ok(Self {
            client,
            base: format!("{LOG_PATH}{region}/"),
            runtime: Handle::current(),
            signed: OnceLock::new(),
        })
    }

    /// Asks until there is an answer: a file, or that there is none.
    async fn get(&self, path: &str) -> Result<Option<Response>, Attempt> {
        let request = self.client.request(Method::GET, &format!("{}{path}", self.base));
        let response = request
            .send()
            .await
            .map_err(|error| Attempt::Again(cause(&error)))?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(response)),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Attempt::Again(format!("the service answered {status}")))
            }
            status => Err(Attempt::Never(format!("the service answered {status}"))),
        }
    }

    async fn whole(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>, Attempt> {
        let Some(mut response) = self.get(path).await? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| Attempt::Again(cause(&error)))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > most {
                return Err(Attempt::Never(format!("it has more than {most} bytes")));
            }
        }
        Ok(Some(bytes))
    }

    /// Takes a bundle apart as it comes. After an answer that broke off the next attempt goes on behind `next`.
    async fn bundle(
        &self,
        mut reader: BundleReader,
        next: &mut u64,
        each: &mut EachEntry<'_>,
    ) -> Result<(), Attempt> {
        let path = reader.path().to_owned();
        let Some(mut response) = self.get(&path).await? else {
            return Ok(());
        };
        let mut new = |index: u64, content: Result<Content<'_>, String>| {
            if index >= *next {
                *next = index + 1;
                each(index, content);
            }
        };
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| Attempt::Again(cause(&error)))?
        {
            reader.push(&chunk, &mut new);
        }
        reader.finish(&mut new);
        Ok(())
    }
}

impl Source for Published {
    fn read(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>, ReadError> {
        // A directory has these two; they are not published.
        if path == "root" || path == "keys" {
            return Ok(None);
        }
        let mut attempts = Attempts::new(path);
        loop {
            match self.runtime.block_on(self.whole(path, most)) {
                Ok(found) => return Ok(found),
                Err(attempt) => self.runtime.block_on(attempts.failed(attempt))?,
            }
        }
    }

    fn entries(&self, bundle: u64, width: u64, each: &mut EachEntry<'_>) -> Result<(), ReadError> {
        let path = bundle::path(bundle, width);
        let (mut attempts, mut next) = (Attempts::new(&path), bundle * WIDTH);
        loop {
            let reader = BundleReader::new(bundle, width);
            match self.runtime.block_on(self.bundle(reader, &mut next, each)) {
                Ok(()) => return Ok(()),
                Err(attempt) => self.runtime.block_on(attempts.failed(attempt))?,
            }
        }
    }

    fn place(&self, index: u64) -> String {
        let signed = self.signed.get().copied().unwrap_or(u64::MAX);
        let bundle = index / WIDTH;
        bundle::path(bundle, signed.saturating_sub(bundle * WIDTH).clamp(1, WIDTH))
    }

    fn extent(&self, signed: u64) -> Result<Extent, ReadError> {
        let _ = self.signed.set(signed);
        Ok(Extent::Growing)
    }
}

/// The attempts at one file.
struct Attempts<'p> {
    path: &'p str,
    made: u32,
}

impl<'p> Attempts<'p> {
    fn new(path: &'p str) -> Self {
        Self { path, made: 0 }
    }

    /// Waits for the next attempt, if there is to be one.
    async fn failed(&mut self, attempt: Attempt) -> Result<(), ReadError> {
        self.made += 1;
        let reason = match attempt {
            Attempt::Never(reason) => return Err(ReadError::new(self.path, &reason)),
            Attempt::Again(reason) => reason,
        };
        if self.made == ATTEMPTS {
            return Err(ReadError::new(
                self.path,
                &format!("{reason} ({ATTEMPTS} attempts)"),
            ));
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << (self.made - 1)).min(MAX_PAUSE);
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        Ok(())
    }
}

/// The region of the newest receipt.
async fn own_region(client: &Client, address: &str) -> Result<String, Failure> {
    let request = client
        .request(Method::GET, "/v1/receipts")
        .query(&[("limit", "1")]);
    let list: ReceiptList = client.json(request).await?;
    let newest = list.receipts.first().and_then(|row| row.id.rsplit_once('/'));
    let (region, _) =
        newest.ok_or_else(|| Failure::new(format!("{address}: it has no receipts; give --region")))?;
    Ok(region.to_owned())
}

/// The innermost cause of an error, in one line.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    in_one_line(&cause.to_string())
}
