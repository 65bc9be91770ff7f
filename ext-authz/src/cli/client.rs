//! The command line's side of the HTTP API.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;

use super::credentials::Credentials;
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
    /// Who we are, where the connection is mutual TLS.
    credentials: Option<Credentials>,
}

impl Client {
    /// Parses `--server`, and obtains an identity where it needs one. Connects on the first call.
    pub(crate) async fn new(args: &ServerArgs) -> Result<Self, Failure> {
        Self::with(args, reqwest::Client::builder().timeout(TIMEOUT)).await
    }

    /// The same for answers that may be long: no bound to the whole of one, and one to each silence in it.
    pub(crate) async fn patient(args: &ServerArgs) -> Result<Self, Failure> {
        let builder = reqwest::Client::builder()
            .connect_timeout(SILENCE)
            .read_timeout(SILENCE);
        Self::with(args, builder).await
    }

    async fn with(args: &ServerArgs, builder: reqwest::ClientBuilder) -> Result<Self, Failure> {
        let builder = builder.no_proxy();
        let address = args.server.trim_end_matches('/').to_owned();
        let (builder, base, credentials) = if let Some(path) = args.server.strip_prefix("unix:") {
            let socket = PathBuf::from(path.trim_start_matches("//"));
            (builder.unix_socket(socket), "http://knhk".to_owned(), None)
        } else if address.starts_with("https://") {
            let credentials = Credentials::obtain(&args.credentials, &args.server).await?;
            (credentials.over_tls(builder), address, Some(credentials))
        } else if address.starts_with("http://") {
            (builder, address, None)
        } else {
            let message = format!(
                "--server {}: write https://HOST:PORT, unix:PATH, or http://HOST:PORT on the service's own machine",
                args.server
            );
            return Err(Failure::new(message));
        };
        let http = builder
            .build()
            .map_err(|error| Failure::new(format!("--server {}: {error}", args.server)))?;
        Ok(Self {
            http,
            base,
            shown: args.server.clone(),
            credentials,
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
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Err(self.unreachable(&error).await),
        };
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
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(body),
                Err(error) => return Err(self.unreachable(&error).await),
            };
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Failure::new(format!(
                    "{}: the answer exceeds {MAX_ANSWER_BYTES} bytes",
                    self.shown
                )));
            }
            body.extend_from_slice(&chunk);
        }
    }

    async fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if let Some(credentials) = &self.credentials
            && let Some(why) = credentials.why(error, &self.base).await
        {
            return Failure::new(format!("{}: {why}", self.shown));
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Failure::new(format!(
            "{}: cannot be reached: {cause}; is `knhk serve` running, and is --server its address?",
            self.shown
        ))
    }
}
