//! `Check` with a durable receipt for every request, beside the disk's own speed in the same run.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use knhk_proto::envoy::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use knhk_proto::envoy::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use knhk_proto::envoy::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use knhk_proto::envoy::pb::envoy::service::auth::v3::check_response::HttpResponse;
use knhk_proto::envoy::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::disk::Disk;
use super::{disk, proxy, us};
use crate::Error;
use crate::gate::connect;
use crate::load::Latencies;
use crate::mesh::{HOST, RolloutFile};
use crate::service::Service;

/// Connections, as many as a proxy with four workers has.
const CONNECTIONS: usize = 4;
/// Requests under way at a time.
const CONCURRENCY: usize = 64;

/// What receipts cost.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Receipts {
    concurrency: usize,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    disk: Disk,
}

pub(super) async fn measure(seconds: u64) -> Result<Receipts, Error> {
    let scratch = proxy::scratch()?;
    let disk = disk::measure(scratch.path(), seconds)?;
    let mut service = Service::stopped_in(scratch.path())?;
    service.up().await?;
    let file = RolloutFile::at(20.0).write(&service)?;
    service
        .cli()?
        .json(&[
            "rollout".as_ref(),
            "apply".as_ref(),
            "-f".as_ref(),
            file.as_os_str(),
        ])
        .await?;
    // The first second warms up.
    load(service.addresses().grpc, Duration::from_secs(1)).await?;
    let began = Instant::now();
    let times = load(service.addresses().grpc, Duration::from_secs(seconds.max(1))).await?;
    #[allow(clippy::cast_precision_loss)]
    let requests_per_second = times.count() as f64 / began.elapsed().as_secs_f64();
    Ok(Receipts {
        concurrency: CONCURRENCY,
        requests_per_second,
        p50_us: us(times.quantile(0.5)),
        p99_us: us(times.quantile(0.99)),
        disk,
    })
}

async fn load(grpc: SocketAddr, duration: Duration) -> Result<Latencies, Error> {
    let end = Instant::now() + duration;
    let mut workers = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let channel = connect(grpc).await?;
        for slot in 0..CONCURRENCY / CONNECTIONS {
            let worker = (connection * CONCURRENCY + slot) as u64;
            workers.spawn(check(channel.clone(), worker, end));
        }
    }
    let mut all = Latencies::new();
    while let Some(worker) = workers.join_next().await {
        let times = worker.map_err(|error| wrong(error.to_string()))??;
        all.merge(&times);
    }
    Ok(all)
}

async fn check(channel: Channel, worker: u64, end: Instant) -> Result<Latencies, Error> {
    let mut client = AuthorizationClient::new(channel);
    let mut times = Latencies::new();
    for number in 0.. {
        let began = Instant::now();
        if began >= end {
            break;
        }
        let answer = client
            .check(request(worker, number, "all"))
            .await
            .map_err(|status| wrong(status.to_string()))?;
        if !has_receipt(&answer.into_inner()) {
            return Err(wrong("an answer without a receipt".to_owned()));
        }
        times.add(began.elapsed());
    }
    Ok(times)
}

/// As Envoy sends it with `encode_raw_headers`, of a route with this `record`.
pub(super) fn request(worker: u64, number: u64, record: &str) -> CheckRequest {
    let header = |key: &str, value: String| HeaderValue {
        key: key.to_owned(),
        raw_value: value.into_bytes(),
        ..HeaderValue::default()
    };
    let http = HttpRequest {
        id: format!("{worker}-{number}"),
        method: "GET".to_owned(),
        host: HOST.to_owned(),
        path: "/".to_owned(),
        scheme: "http".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        header_map: Some(HeaderMap {
            headers: vec![
                header(":authority", HOST.to_owned()),
                header(":path", "/".to_owned()),
                header("x-user-id", format!("user-{worker}-{number}")),
                header("user-agent", "knhk-bench".to_owned()),
            ],
        }),
        ..HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request {
                http: Some(http),
                ..Request::default()
            }),
            context_extensions: HashMap::from([
                ("record".to_owned(), record.to_owned()),
                ("wait_timeout".to_owned(), "15s".to_owned()),
            ]),
            ..AttributeContext::default()
        }),
    }
}

fn has_receipt(answer: &CheckResponse) -> bool {
    let Some(HttpResponse::OkResponse(ok)) = &answer.http_response else {
        return false;
    };
    ok.headers
        .iter()
        .filter_map(|option| option.header.as_ref())
        .any(|header| header.key == "x-knhk-receipt")
}

fn wrong(reason: String) -> Error {
    Error::Contract {
        what: "Check".to_owned(),
        reason,
    }
}

impl fmt::Display for Receipts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            concurrency,
            requests_per_second,
            p50_us,
            p99_us,
            disk,
        } = self;
        write!(
            f,
            "\nCheck with a durable receipt, {concurrency} requests at a time: {requests_per_second:.0}/s, p50 {p50_us:.0} us, p99 {p99_us:.0} us.\n\
             The disk alone, one 4 KiB write and fdatasync at a time: {:.0}/s, p50 {:.0} us, p99 {:.0} us.",
            disk.syncs_per_second, disk.p50_us, disk.p99_us
        )
    }
}
