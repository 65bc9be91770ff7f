//! A worker of a proxy, as the service sees one: a connection of its own with one stream on it.
//!
//! It speaks HTTP/2 without a gRPC library, since a benchmark runs a thousand of them beside the service.

use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use hyper::{Method, Request};
use knhk_identity::{Allow, Alpn, Connector, PatternError};
use knhk_proto::v1;
use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::Error;
use crate::peer::spire::Minted;

/// Before each gRPC message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// One open stream.
#[derive(Debug)]
pub struct Worker {
    up: SendStream<Bytes>,
    down: RecvStream,
    received: BytesMut,
    /// The connection ends with the last of its handles.
    _connection: SendRequest<Bytes>,
}

/// A gRPC client's connection to the service.
pub async fn connect(grpc: SocketAddr) -> Result<Channel, Error> {
    let what = format!("gRPC at {grpc}");
    Endpoint::from_shared(format!("http://{grpc}"))
        .map_err(|error| Error::Http {
            what: what.clone(),
            reason: error.to_string(),
        })?
        .connect()
        .await
        .map_err(|error| Error::Http {
            what,
            reason: error.to_string(),
        })
}

/// The same over mutual TLS, as somebody.
pub fn connect_as(who: Connector, grpc: SocketAddr) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{grpc}")).map_err(|error| Error::Http {
        what: format!("gRPC at {grpc}"),
        reason: error.to_string(),
    })?;
    Ok(endpoint.connect_with_connector_lazy(who))
}

/// Connects as this SVID, to anybody of its trust domain.
pub fn connector(minted: &Minted) -> Result<Connector, Error> {
    let identity = minted.identity()?;
    let id = identity
        .current()
        .map_err(|none| ended(none.to_string()))?
        .id()
        .clone();
    let pattern = format!("spiffe://{}/*", id.trust_domain());
    let pattern = pattern
        .parse()
        .map_err(|error: PatternError| ended(error.to_string()))?;
    Ok(Connector::new(identity, Allow::Ids(vec![pattern]), Alpn::Http2))
}

impl Worker {
    /// Opens a stream to the service and says Hello.
    pub async fn greet(grpc: SocketAddr, node: &str, nonce: [u8; 16]) -> Result<Self, Error> {
        let tcp = TcpStream::connect(grpc)
            .await
            .map_err(Error::io(format!("the Gate at {grpc}")))?;
        tcp.set_nodelay(true)
            .map_err(Error::io("a worker's connection"))?;
        Self::over(tcp, grpc, node, nonce).await
    }

    /// The same over mutual TLS, as somebody.
    pub async fn greet_as(
        who: &Connector,
        grpc: SocketAddr,
        node: &str,
        nonce: [u8; 16],
    ) -> Result<Self, Error> {
        let tls = who
            .connect(&grpc.to_string())
            .await
            .map_err(|error| ended(error.to_string()))?;
        Self::over(tls, grpc, node, nonce).await
    }

    async fn over<S>(stream: S, grpc: SocketAddr, node: &str, nonce: [u8; 16]) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (client, connection) = h2::client::handshake(stream).await.map_err(broken)?;
        // It ends when the worker is dropped; its errors reach the stream.
        tokio::spawn(connection);
        let mut client = client.ready().await.map_err(broken)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{grpc}/knhk.v1.Gate/Stream"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| ended(error.to_string()))?;
        let (response, mut up) = client.send_request(request, false).map_err(broken)?;
        let hello = v1::Hello {
            node: node.to_owned(),
            vm_nonce: nonce.to_vec(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            last: None,
        };
        send(&mut up, v1::up::Message::Hello(hello))?;
        let response = response.await.map_err(broken)?;
        if !response.status().is_success() {
            return Err(ended(format!("the service answered {}", response.status())));
        }
        Ok(Self {
            up,
            down: response.into_body(),
            received: BytesMut::new(),
            _connection: client,
        })
    }

    /// Says something.
    pub fn say(&mut self, message: v1::up::Message) -> Result<(), Error> {
        send(&mut self.up, message)
    }

    /// The next snapshot.
    pub async fn snapshot(&mut self) -> Result<v1::Snapshot, Error> {
        loop {
            while let Some(message) = self.message()? {
                if let Some(v1::down::Message::Snapshot(snapshot)) = message.message {
                    return Ok(snapshot);
                }
            }
            let data = self
                .down
                .data()
                .await
                .ok_or_else(|| ended("it ended".to_owned()))?
                .map_err(broken)?;
            self.down
                .flow_control()
                .release_capacity(data.len())
                .map_err(broken)?;
            self.received.extend_from_slice(&data);
        }
    }

    /// The policy in the next snapshot.
    pub async fn policy(&mut self) -> Result<Value, Error> {
        let snapshot = self.snapshot().await?;
        serde_json::from_slice(&snapshot.policy).map_err(|error| ended(error.to_string()))
    }

    /// Takes snapshots until the first rollout in one has this weight, in percent; none has 0.
    pub async fn until_weight(&mut self, percent: f64) -> Result<(), Error> {
        loop {
            let weight = self.policy().await?["rollouts"][0]["weight"].as_f64();
            if (weight.unwrap_or_default() - percent).abs() < f64::EPSILON {
                return Ok(());
            }
        }
    }

    /// The next message that has been received whole.
    fn message(&mut self) -> Result<Option<v1::Down>, Error> {
        let Some(prefix) = self.received.get(1..PREFIX) else {
            return Ok(None);
        };
        let length = prefix
            .iter()
            .fold(0, |length, &byte| length << 8 | usize::from(byte));
        if self.received.len() < PREFIX + length {
            return Ok(None);
        }
        self.received.advance(PREFIX);
        let message = self.received.split_to(length);
        v1::Down::decode(message)
            .map(Some)
            .map_err(|error| ended(error.to_string()))
    }
}

fn send(up: &mut SendStream<Bytes>, message: v1::up::Message) -> Result<(), Error> {
    let message = v1::Up {
        message: Some(message),
    };
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).map_err(|_| ended(format!("a message of {length} bytes")))?);
    message
        .encode(&mut framed)
        .map_err(|error| ended(error.to_string()))?;
    up.send_data(framed.freeze(), false).map_err(broken)
}

#[allow(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn broken(error: h2::Error) -> Error {
    ended(error.to_string())
}

fn ended(reason: String) -> Error {
    Error::Contract {
        what: "a worker's stream".to_owned(),
        reason,
    }
}
