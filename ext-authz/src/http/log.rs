//! The transparency log over HTTP: C2SP tlog-tiles.

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;

use super::error::blocking;
use super::{Api, ApiError};

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

pub(super) async fn checkpoint(
    State(api): State<Api>,
    Path(region): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    known(&api, &region)?;
    let checkpoint = api
        .app
        .log
        .checkpoint()
        .ok_or_else(|| ApiError::not_found("no checkpoint is signed yet; ask again after a flush"))?;
    Ok(([(header::CONTENT_TYPE, TEXT)], checkpoint.as_bytes().to_vec()))
}

pub(super) async fn tile(
    State(api): State<Api>,
    Path((region, path)): Path<(String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    known(&api, &region)?;
    let log = api.app.log.clone();
    let bytes = blocking(&api, move || log.tile(&format!("tile/{path}"))).await?;
    Ok(([(header::CONTENT_TYPE, BINARY)], bytes))
}

fn known(api: &Api, region: &str) -> Result<(), ApiError> {
    if region == api.app.region {
        return Ok(());
    }
    Err(ApiError::not_found(format!(
        "`{region}`: this service holds the log of `{}`",
        api.app.region
    )))
}
