//! A worker of a proxy, as the service sees one.

use std::net::SocketAddr;

use futures::StreamExt as _;
use knhk_proto::v1;
use knhk_proto::v1::gate_client::GateClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::Error;

/// Messages that may wait to be sent.
const WAITING: usize = 16;

/// One open stream.
#[derive(Debug)]
pub struct Worker {
    up: mpsc::Sender<v1::Up>,
    down: Streaming<v1::Down>,
}

/// A connection that carries many workers' streams, as Envoy's does for its own.
pub async fn connect(grpc: SocketAddr) -> Result<Channel, Error> {
    let what = format!("the Gate at {grpc}");
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

impl Worker {
    /// Opens a stream and says Hello.
    pub async fn greet(channel: Channel, node: &str, nonce: [u8; 16]) -> Result<Self, Error> {
        let (up, messages) = mpsc::channel(WAITING);
        let hello = v1::Hello {
            node: node.to_owned(),
            vm_nonce: nonce.to_vec(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            last: None,
        };
        let worker_ended = |_| Error::Contract {
            what: "a worker's stream".to_owned(),
            reason: "it ended".to_owned(),
        };
        up.send(up_message(v1::up::Message::Hello(hello)))
            .await
            .map_err(worker_ended)?;
        let down = GateClient::new(channel)
            .stream(ReceiverStream::new(messages))
            .await
            .map_err(|status| Error::Contract {
                what: "Gate/Stream".to_owned(),
                reason: status.to_string(),
            })?
            .into_inner();
        Ok(Self { up, down })
    }

    /// Says something.
    pub async fn say(&self, message: v1::up::Message) -> Result<(), Error> {
        let ended = |_| Error::Contract {
            what: "a worker's stream".to_owned(),
            reason: "it ended".to_owned(),
        };
        self.up.send(up_message(message)).await.map_err(ended)
    }

    /// The next snapshot.
    pub async fn snapshot(&mut self) -> Result<v1::Snapshot, Error> {
        let ended = |reason: String| Error::Contract {
            what: "a worker's stream".to_owned(),
            reason,
        };
        loop {
            let message = self
                .down
                .next()
                .await
                .ok_or_else(|| ended("it ended".to_owned()))?;
            let message = message.map_err(|status| ended(status.to_string()))?;
            if let Some(v1::down::Message::Snapshot(snapshot)) = message.message {
                return Ok(snapshot);
            }
        }
    }
}

fn up_message(message: v1::up::Message) -> v1::Up {
    v1::Up {
        message: Some(message),
    }
}
