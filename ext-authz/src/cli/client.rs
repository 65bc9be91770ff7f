//! The command line's side of the HTTP API.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;

use super::{Failure, ServerArgs};
use crate::api::ErrorBody;

/// An operator's call takes longer than this only when something is wrong.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A service that says nothing for so long in the midst of a long answer is away.
const SILENCE: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A connection to one service.
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    shown: String,
}

impl Client {
    /// Parses `--server`. Connects on the first call.
    pub(crate) fn new(args: &ServerArgs) -> Result<Self, Failure> {
        Self::with(args, reqwest::Client::builder().timeout(TIMEOUT))
    }

    /// The same for answers that may be long: no bound to the whole of one, and one to each silence in it.
    pub(crate) fn patient(args: &ServerArgs) -> Result<Self, Failure> {
        Self::with(
            args,
            reqwest::Client::builder()
                .connect_timeout(SILENCE)
                .read_timeout(SILENCE),
        )
    }

    fn with(args: &ServerArgs, builder: reqwest::ClientBuilder) -> Result<Self, Failure> {
        let builder = builder.no_proxy();
        let (builder, base) = if let Some(path) = args.server.strip_prefix("unix:") {
            (
                builder.unix_socket(PathBuf::from(path.trim_start_matches("//"))),
                "http://knhk".to_owned(),
            )
        } else if args.server.starts_with("http://") {
            (builder, args.server.trim_end_matches('/').to_owned())
        } else {
            let message = format!("--server {}: write unix:PATH or http://HOST:PORT", args.server);
            return Err(Failure::new(message));
        };
        let http = builder
            .build()
            .map_err(|error| Failure::new(format!("--server {}: {error}", args.server)))?;
        Ok(Self {
            http,
            base,
            shown: args.server.clone(),
        })
    }

    /// A request for a path of the API.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Sends a request and reads its JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let bytes = self.bytes(request).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(format!(
                "{}: the answer is not what this version expects: {error}",
                self.shown
            ))
        })
    }

    /// Sends a request and reads its body.
    pub(crate) async fn bytes(&self, request: RequestBuilder) -> Result<Vec<u8>, Failure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = self.body(response).await?;
        if status.is_success() {
            return Ok(body);
        }
        Err(match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(error) => Failure::new(error.message),
            Err(_) => Failure::new(format!(
                "{}: answered {status}; is this a KNHK service?",
                self.shown
            )),
        })
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Failure::new(format!(
                    "{}: the answer exceeds {MAX_ANSWER_BYTES} bytes",
                    self.shown
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Failure::new(format!(
            "{}: cannot be reached: {cause}; is `knhk serve` running, and does --server name its socket?",
            self.shown
        ))
    }
}
