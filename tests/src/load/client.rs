//! A keep-alive HTTP/1.1 client that shows what it got and never retries.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::upstream::{SEEN, VERSION};

/// One connection, made when it is needed.
#[derive(Debug)]
pub struct Client {
    target: SocketAddr,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Ask {
    method: Method,
    path: String,
    headers: HeaderMap,
}

/// An answer, its body left out.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    headers: HeaderMap,
}

impl Ask {
    /// A GET.
    ///
    /// # Panics
    /// If `host` is no header value: the harness writes it, so that is a mistake in a test.
    pub fn get(host: &str, path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            headers: HeaderMap::from_iter([(HOST, value(host))]),
        }
    }

    /// With another method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Adds a header; a second one of the same name is sent too.
    ///
    /// # Panics
    /// If it is no header: the harness writes it, so that is a mistake in a test.
    #[must_use]
    pub fn header(mut self, name: &str, text: &str) -> Self {
        self.headers.append(
            HeaderName::try_from(name).unwrap_or_else(|_| panic!("{name:?} is no header name")),
            value(text),
        );
        self
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self
            .path
            .parse()
            .unwrap_or_else(|_| panic!("{:?} is no path", self.path));
        *request.headers_mut() = self.headers.clone();
        request
    }
}

impl Answer {
    /// Which version served it; empty when no upstream did.
    pub fn version(&self) -> &str {
        self.header(VERSION).unwrap_or_default()
    }

    /// What the upstream saw in `x-knhk-{name}`.
    pub fn seen(&self, name: &str) -> Option<&str> {
        self.header(&format!("{SEEN}{name}"))
    }

    /// A header of the answer, its first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Client {
    /// A client of this proxy or server.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            connection: None,
        }
    }

    /// Sends one request and reads its answer to the end. After an error the next request opens a new connection.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer, String> {
        let result = self
            .try_ask(ask)
            .await
            .map_err(|error| format!("{}: {error}", self.target));
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    async fn try_ask(&mut self, ask: &Ask) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let connection = match &mut self.connection {
            Some(open) if !open.is_closed() => open,
            stale => stale.insert(connect(self.target).await?),
        };
        connection.ready().await?;
        let response = connection.send_request(ask.request()).await?;
        let (parts, body) = response.into_parts();
        body.collect().await?;
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
        })
    }
}

/// Asks each once, over `connections` connections at a time, and gives the answers in the order of the questions.
pub async fn ask_each(target: SocketAddr, connections: usize, asks: Vec<Ask>) -> Result<Vec<Answer>, String> {
    let shared = std::sync::Arc::new((asks, AtomicUsize::new(0)));
    let workers = (0..connections).map(|_| {
        let shared = std::sync::Arc::clone(&shared);
        tokio::spawn(async move {
            let (asks, next) = &*shared;
            let mut client = Client::new(target);
            let mut answers = Vec::new();
            loop {
                let number = next.fetch_add(1, Relaxed);
                let Some(ask) = asks.get(number) else {
                    return Ok::<_, String>(answers);
                };
                answers.push((number, client.ask(ask).await?));
            }
        })
    });
    let mut numbered = Vec::with_capacity(shared.0.len());
    for worker in workers.collect::<Vec<_>>() {
        numbered.extend(worker.await.map_err(|error| error.to_string())??);
    }
    numbered.sort_by_key(|(number, _)| *number);
    Ok(numbered.into_iter().map(|(_, answer)| answer).collect())
}

async fn connect(
    target: SocketAddr,
) -> Result<SendRequest<Empty<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends when the sender is dropped. Its errors reach the sender's requests.
    tokio::spawn(connection);
    Ok(sender)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| panic!("{text:?} is no header value"))
}
