//! Decisions recorded through `Check`, asked for as a proxy asks, without one between: what was acknowledged is known exactly.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use knhk_proto::envoy::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use knhk_proto::envoy::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use knhk_proto::envoy::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use knhk_proto::envoy::pb::envoy::service::auth::v3::check_response::HttpResponse;
use knhk_proto::envoy::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use crate::Error;
use crate::gate::connect;
use crate::mesh::HOST;

/// Connections, as many as a proxy with four workers has.
const CONNECTIONS: u64 = 4;

/// Requests under way on each.
const ON_EACH: u64 = 4;

/// A receipt that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Its ID.
    pub id: String,
    /// The path that was asked for, which no other request has.
    pub path: String,
}

/// Requests that go on until the service is gone, or [`Recording::finish`].
#[derive(Debug)]
pub struct Recording {
    workers: JoinSet<Vec<Acknowledged>>,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Recording {
    /// Starts to ask. The paths begin with `/NAME/`.
    pub async fn start(grpc: SocketAddr, name: &str) -> Result<Self, Error> {
        let (count, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut workers = JoinSet::new();
        for connection in 0..CONNECTIONS {
            let channel = connect(grpc).await?;
            for slot in 0..ON_EACH {
                let (channel, count, stop) = (channel.clone(), Arc::clone(&count), Arc::clone(&stop));
                let prefix = format!("/{name}/{connection}/{slot}");
                workers.spawn(async move {
                    let mut acknowledged = Vec::new();
                    for number in 0_u64.. {
                        let path = format!("{prefix}/{number}");
                        let Some(id) = check(channel.clone(), &path)
                            .await
                            .filter(|_| !stop.load(Ordering::SeqCst))
                        else {
                            break;
                        };
                        acknowledged.push(Acknowledged { id, path });
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    acknowledged
                });
            }
        }
        Ok(Self { workers, count, stop })
    }

    /// How many were acknowledged so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Asks no more, and gives everything that was acknowledged.
    pub async fn finish(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::SeqCst);
        self.workers.join_all().await.concat()
    }
}

/// Asks once. The receipt's ID, or nothing where there was no answer or none with a receipt.
pub async fn check(channel: Channel, path: &str) -> Option<String> {
    check_as_proxy(channel, path).await.ok()?
}

/// The same, and why the service would not say.
pub async fn check_as_proxy(channel: Channel, path: &str) -> Result<Option<String>, Status> {
    let answer = AuthorizationClient::new(channel)
        .check(request(path, "local", "15s"))
        .await?;
    Ok(receipt(&answer.into_inner()))
}

/// The same, answered when a quorum of regions holds it, or after `limit`: then it is denied, and there is no receipt in the answer.
pub async fn check_with_quorum(channel: Channel, path: &str, limit: &str) -> Result<Option<String>, Status> {
    let asked = request(path, "quorum", limit);
    let answer = AuthorizationClient::new(channel).check(asked).await?;
    Ok(receipt(&answer.into_inner()))
}

fn request(path: &str, wait: &str, limit: &str) -> CheckRequest {
    let header = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let http = HttpRequest {
        id: path.to_owned(),
        method: "GET".to_owned(),
        host: HOST.to_owned(),
        path: path.to_owned(),
        scheme: "http".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        header_map: Some(HeaderMap {
            headers: vec![
                header(":authority", HOST),
                header(":path", path),
                header("x-user-id", path),
            ],
        }),
        ..HttpRequest::default()
    };
    let options = [("record", "all"), ("wait", wait), ("wait_timeout", limit)];
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request {
                http: Some(http),
                ..Request::default()
            }),
            context_extensions: HashMap::from(
                options.map(|(name, value)| (name.to_owned(), value.to_owned())),
            ),
            ..AttributeContext::default()
        }),
    }
}

fn receipt(answer: &CheckResponse) -> Option<String> {
    let Some(HttpResponse::OkResponse(ok)) = &answer.http_response else {
        return None;
    };
    let headers = ok.headers.iter().filter_map(|option| option.header.as_ref());
    let mut ids = headers.filter(|header| header.key == "x-knhk-receipt");
    ids.next().map(|header| match header.raw_value.as_slice() {
        [] => header.value.clone(),
        raw => String::from_utf8_lossy(raw).into_owned(),
    })
}
