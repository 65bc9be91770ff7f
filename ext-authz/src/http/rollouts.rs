//! Rollouts over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use knhk_promotion::{Command, RolloutSpec};
use serde::Deserialize;

use super::error::blocking;
use super::{Api, ApiError, Caller};
use crate::api::{Deleted, PromoteRequest, RolloutHistory, RolloutList, RolloutStatus};
use crate::app::history;

/// Transitions in one answer at most, and unless `limit` says otherwise.
const MAX_ENTRIES: usize = 256;

/// Which part of a history.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

type Answer = Result<Json<RolloutStatus>, ApiError>;

pub(super) async fn list(State(api): State<Api>) -> Json<RolloutList> {
    Json(RolloutList {
        rollouts: api.app.rollouts.summaries(),
    })
}

pub(super) async fn status(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    Ok(Json(api.app.rollout_status(&name)?))
}

pub(super) async fn history(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(asked): Query<HistoryQuery>,
) -> Result<Json<RolloutHistory>, ApiError> {
    let limit = asked.limit.unwrap_or(MAX_ENTRIES);
    if limit == 0 || limit > MAX_ENTRIES {
        return Err(ApiError::invalid(format!(
            "limit: {limit} is not from 1 to {MAX_ENTRIES}"
        )));
    }
    let rollout = api.app.rollouts.get(&name)?;
    let after = asked.after.unwrap_or(0);
    let (data, held) = (api.app.data.clone(), Arc::clone(&rollout));
    let history = blocking(&api, move || history::page(&data, &held, after, limit)).await?;
    let last = history.last().map_or(u64::MAX, |entry| entry.seq);
    Ok(Json(RolloutHistory {
        name,
        next_after: (last < rollout.sequence()).then_some(last),
        history,
    }))
}

/// The body is the rollout as YAML, of which JSON is a part.
pub(super) async fn apply(
    State(api): State<Api>,
    Path(name): Path<String>,
    caller: Caller,
    body: String,
) -> Answer {
    let spec = RolloutSpec::from_yaml(&body).map_err(|error| ApiError::invalid(error.to_string()))?;
    if spec.name() != name {
        let message = format!(
            "metadata.name: `{}` is not `{name}`, the name in the path",
            spec.name()
        );
        return Err(ApiError::invalid(message));
    }
    act(&api, name, caller, Command::Apply(spec)).await
}

pub(super) async fn promote(
    State(api): State<Api>,
    Path(name): Path<String>,
    caller: Caller,
    body: Bytes,
) -> Answer {
    let request = if body.is_empty() {
        PromoteRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            ApiError::invalid(format!(
                "the body: {error}; send nothing, or {{\"full\": true, \"reason\": \"...\"}}"
            ))
        })?
    };
    let PromoteRequest { full, reason } = request;
    act(&api, name, caller, Command::Promote { full, reason }).await
}

pub(super) async fn approve(State(api): State<Api>, Path(name): Path<String>, caller: Caller) -> Answer {
    act(&api, name, caller, Command::Approve).await
}

pub(super) async fn pause(State(api): State<Api>, Path(name): Path<String>, caller: Caller) -> Answer {
    act(&api, name, caller, Command::Pause).await
}

pub(super) async fn resume(State(api): State<Api>, Path(name): Path<String>, caller: Caller) -> Answer {
    act(&api, name, caller, Command::Resume).await
}

pub(super) async fn abort(State(api): State<Api>, Path(name): Path<String>, caller: Caller) -> Answer {
    act(&api, name, caller, Command::Abort).await
}

pub(super) async fn retry(State(api): State<Api>, Path(name): Path<String>, caller: Caller) -> Answer {
    act(&api, name, caller, Command::Retry).await
}

pub(super) async fn adopt(State(api): State<Api>, Path(name): Path<String>, caller: Caller) -> Answer {
    api.app.rollouts.adopt(name.clone(), caller.0).await?;
    Ok(Json(api.app.rollout_status(&name)?))
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<Deleted>, ApiError> {
    api.app.rollouts.delete(name.clone(), caller.0).await?;
    Ok(Json(Deleted { deleted: name }))
}

async fn act(api: &Api, name: String, caller: Caller, command: Command) -> Answer {
    api.app.rollouts.command(name.clone(), caller.0, command).await?;
    Ok(Json(api.app.rollout_status(&name)?))
}
