//! Receipts over HTTP.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use knhk_decision::PolicyId;
use knhk_receipts::{Log, LogError, Payload};
use serde::Deserialize;

use super::error::blocking;
use super::{Api, ApiError};
use crate::api::{KINDS, ReceiptList, ReceiptSummary, rfc3339};

/// Receipts in one answer unless `limit` says otherwise.
const DEFAULT_LIMIT: usize = 50;
/// Receipts in one answer at most.
const MAX_LIMIT: usize = 1000;
/// Entries that one listing reads at most; the answer says where to go on.
const MAX_READ: u64 = 100_000;
/// Entries read at once, backwards.
const PAGE: u64 = 512;
/// A receipt is asked for before it is signed: wait for the longest interval between flushes and some, not for ever.
const SIGNED_WITHIN: Duration = Duration::from_secs(12);

/// What of the log to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    before: Option<u64>,
    limit: Option<usize>,
    kind: Option<String>,
    rollout: Option<String>,
}

pub(super) async fn list(
    State(api): State<Api>,
    Query(filter): Query<Filter>,
) -> Result<Json<ReceiptList>, ApiError> {
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(ApiError::invalid(format!(
            "limit: {limit} is not from 1 to {MAX_LIMIT}"
        )));
    }
    if let Some(kind) = filter
        .kind
        .as_ref()
        .filter(|kind| !KINDS.contains(&kind.as_str()))
    {
        let message = format!("kind: `{kind}` is none of {}", KINDS.join(", "));
        return Err(ApiError::invalid(message));
    }
    let log = api.app.log.clone();
    Ok(Json(
        blocking(&api, move || newest_first(&log, &filter, limit)).await?,
    ))
}

/// Reads backwards, a page at a time, each page forwards.
fn newest_first(log: &Log, filter: &Filter, limit: usize) -> Result<ReceiptList, LogError> {
    let status = log.status();
    let mut end = filter
        .before
        .map_or(status.size, |before| before.min(status.size));
    let floor = end.saturating_sub(MAX_READ);
    let mut receipts = Vec::new();
    while end > floor {
        let start = end.saturating_sub(PAGE).max(floor);
        let mut page = Vec::new();
        let count = usize::try_from(end - start).unwrap_or(usize::MAX);
        for entry in log.scan(start).take(count) {
            let (index, payload) = entry?;
            if matches(filter, &payload) {
                page.push(summary(log.region(), index, &payload, index < status.signed_size));
            }
        }
        for (index, receipt) in page.into_iter().rev() {
            if receipts.len() == limit {
                return Ok(ReceiptList {
                    receipts,
                    next_before: Some(index + 1),
                });
            }
            receipts.push(receipt);
        }
        end = start;
    }
    Ok(ReceiptList {
        receipts,
        next_before: (end > 0).then_some(end),
    })
}

fn matches(filter: &Filter, payload: &Payload) -> bool {
    filter.kind.as_deref().is_none_or(|kind| kind == payload.kind())
        && filter
            .rollout
            .as_deref()
            .is_none_or(|rollout| rollout_of(payload) == Some(rollout))
}

fn summary(region: &str, index: u64, payload: &Payload, signed: bool) -> (u64, ReceiptSummary) {
    let summary = ReceiptSummary {
        id: format!("{region}/{index}"),
        time: rfc3339(payload.time_unix_ms()),
        kind: payload.kind().to_owned(),
        rollout: rollout_of(payload).map(str::to_owned),
        summary: crate::api::summary(payload),
        signed,
    };
    (index, summary)
}

fn rollout_of(payload: &Payload) -> Option<&str> {
    match payload {
        Payload::Decision(decision) => decision
            .evidence
            .rollout
            .as_ref()
            .map(|route| route.name.as_str()),
        Payload::Action(action) => Some(&action.target),
        Payload::Policy(_) | Payload::Genesis(_) | Payload::Key(_) => None,
    }
}

/// The receipt file: deterministic CBOR, verifiable offline.
pub(super) async fn get(
    State(api): State<Api>,
    Path((region, index)): Path<(String, u64)>,
) -> Result<impl IntoResponse, ApiError> {
    let log = &api.app.log;
    if region != api.app.region {
        let message = format!(
            "`{region}/{index}`: this service holds the receipts of `{}`",
            api.app.region
        );
        return Err(ApiError::not_found(message));
    }
    if index >= log.size() {
        let message = format!(
            "`{region}/{index}`: there is none yet; the log has {} entries",
            log.size()
        );
        return Err(ApiError::not_found(message));
    }
    tokio::time::timeout(SIGNED_WITHIN, log.covered(index))
        .await
        .map_err(|_| {
            let message =
                format!("`{region}/{index}` is durable but not signed yet; see /readyz, and ask again");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_signed", message)
        })??;
    let acks = api.app.regions.as_ref().map(|regions| regions.acknowledgements());
    let receipt = log.receipt_held(index, acks.unwrap_or_default()).await?;
    Ok(([(header::CONTENT_TYPE, "application/cbor")], receipt.to_bytes()))
}

/// A policy document by its number, as it was published.
pub(super) async fn policy(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let wanted: PolicyId = id
        .parse()
        .map_err(|error| ApiError::invalid(format!("`{id}`: {error}")))?;
    if let Some(snapshot) = api.app.snapshots.named(wanted) {
        return Ok((
            [(header::CONTENT_TYPE, "application/json")],
            snapshot.bytes.to_vec(),
        ));
    }
    let log = api.app.log.clone();
    let found = blocking(&api, move || recorded_policy(&log, wanted)).await?;
    let bytes =
        found.ok_or_else(|| ApiError::not_found(format!("`{wanted}`: no such policy in this log")))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes))
}

/// An old policy is looked for in the whole log: replays of old decisions are rare.
fn recorded_policy(log: &Log, wanted: PolicyId) -> Result<Option<Vec<u8>>, LogError> {
    for entry in log.scan(0) {
        if let (_, Payload::Policy(policy)) = entry?
            && policy.id == wanted
        {
            return Ok(Some(policy.bytes));
        }
    }
    Ok(None)
}
