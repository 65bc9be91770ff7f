//! The transparency log over HTTP: C2SP tlog-tiles, and beside them payload bundles and kept checkpoints. Nothing of it goes
//! beyond the newest checkpoint.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use knhk_receipts::{LogError, Payloads};

use super::error::blocking;
use super::{Api, ApiError};
use crate::api::Consistency;

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";
/// RFC 8742, 6.1.
const CBOR_SEQUENCE: &str = "application/cbor-seq";

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

/// That the tree of the first `from` entries is the beginning of the newest checkpoint's.
pub(super) async fn consistency(
    State(api): State<Api>,
    Path((region, from)): Path<(String, u64)>,
) -> Result<Json<Consistency>, ApiError> {
    known(&api, &region)?;
    if from == 0 {
        return Err(ApiError::invalid(
            "from: every tree begins with none; give the size of a checkpoint that you kept",
        ));
    }
    let log = api.app.log.clone();
    let (checkpoint, proof) = blocking(&api, move || log.consistency(from)).await?;
    Ok(Json(Consistency {
        from,
        to: checkpoint.size(),
        checkpoint: String::from_utf8_lossy(checkpoint.as_bytes()).into_owned(),
        proof: proof.iter().map(|hash| hexadecimal(hash)).collect(),
    }))
}

fn hexadecimal(hash: &[u8]) -> String {
    hash.iter()
        .fold(String::new(), |shown, byte| shown + &format!("{byte:02x}"))
}

/// Checkpoints that were kept, file `n` of them.
pub(super) async fn kept_checkpoints(
    State(api): State<Api>,
    Path((region, n)): Path<(String, u64)>,
) -> Result<impl IntoResponse, ApiError> {
    known(&api, &region)?;
    let log = api.app.log.clone();
    let bytes = blocking(&api, move || log.kept_checkpoints(n)).await?;
    Ok(([(header::CONTENT_TYPE, TEXT)], bytes))
}

/// What the entries of a bundle commit to: a CBOR sequence. It is sent as it is read, since it may be far larger than what
/// should be in memory, and each piece is read when the one before it has gone, so that a slow client holds no reader.
pub(super) async fn payloads(
    State(api): State<Api>,
    Path((region, path)): Path<(String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    known(&api, &region)?;
    let log = api.app.log.clone();
    let first = blocking(&api, move || piece(log.payloads(&format!("payloads/{path}"))?)).await?;
    let pieces = futures::stream::try_unfold(Some(first), move |last: Option<Piece>| {
        let api = api.clone();
        async move {
            let Some(Piece { bytes, rest }) = last else {
                return Ok::<_, std::io::Error>(None);
            };
            // The last piece is followed by an empty one.
            if bytes.is_empty() {
                return Ok(None);
            }
            let next = blocking(&api, move || piece(rest)).await;
            // The status is sent already: the client sees that the answer breaks off.
            let next = next.map_err(|error| std::io::Error::other(error.to_string()))?;
            Ok(Some((bytes, Some(next))))
        }
    });
    Ok(([(header::CONTENT_TYPE, CBOR_SEQUENCE)], Body::from_stream(pieces)))
}

/// A part of a payload bundle, and what is behind it.
struct Piece {
    bytes: Bytes,
    rest: Payloads,
}

fn piece(mut rest: Payloads) -> Result<Piece, LogError> {
    let bytes = rest.next().transpose()?.unwrap_or_default().into();
    Ok(Piece { bytes, rest })
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
