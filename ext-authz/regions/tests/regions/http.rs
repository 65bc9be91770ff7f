//! Peers over HTTP: what each answer becomes.

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use knhk_regions::wire::{Answer, MAX_ANSWER_BYTES, Message};
use knhk_regions::{HttpPeer, Transport, TransportError};
use tokio::net::TcpListener;

fn answer(held: u64) -> Answer {
    Answer {
        held,
        trusted: [1; 32],
        checkpoint: None,
        ack: None,
        refused: None,
    }
}

async fn served(router: Router) -> HttpPeer {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    HttpPeer::new(&format!("http://{address}"), None).expect("a client")
}

#[tokio::test]
async fn a_peer_is_asked_and_told_over_http() {
    let receipts = |body: Bytes| async move {
        let status = if body.is_empty() {
            StatusCode::CONFLICT
        } else {
            StatusCode::OK
        };
        (status, answer(body.len() as u64).to_bytes())
    };
    let entries = |Path((region, from)): Path<(String, u64)>| async move { format!("{region} {from}") };
    let peer = served(
        Router::new()
            .route("/v1/receipts", post(receipts))
            .route("/v1/replicate", post(|body: Bytes| async move { body }))
            .route("/v1/log/{region}/held", get(|| async { answer(7).to_bytes() }))
            .route("/v1/log/{region}/entries/{from}", get(entries)),
    )
    .await;
    assert_eq!(peer.receipts(vec![1, 2, 3]).await, Ok(answer(3)));
    assert_eq!(
        peer.receipts(Vec::new()).await,
        Ok(answer(0)),
        "a refusal is an answer"
    );
    let message = Message::of("us");
    assert_eq!(peer.replicate(&message).await, Ok(message));
    assert_eq!(peer.held("us").await, Ok(answer(7)));
    assert_eq!(peer.entries("us", 42).await, Ok(b"us 42".to_vec()));
}

#[tokio::test]
async fn each_failure_has_its_label() {
    let labels = |path: &'static str, status: StatusCode, body: Vec<u8>| async move {
        let peer = served(Router::new().route(path, get(move || async move { (status, body) }))).await;
        peer.held("us").await.map_err(|error| error.label())
    };
    let path = "/v1/log/{region}/held";
    assert_eq!(
        labels(path, StatusCode::FORBIDDEN, Vec::new()).await,
        Err("not_allowed")
    );
    assert_eq!(
        labels(path, StatusCode::INTERNAL_SERVER_ERROR, Vec::new()).await,
        Err("status")
    );
    assert_eq!(labels("/other", StatusCode::OK, Vec::new()).await, Err("status"));
    assert_eq!(labels(path, StatusCode::OK, vec![0xff]).await, Err("unreadable"));
    assert_eq!(
        labels(path, StatusCode::OK, vec![0; MAX_ANSWER_BYTES + 1]).await,
        Err("unreadable")
    );
    let unused = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = unused.local_addr().expect("its address");
    drop(unused);
    let nobody = HttpPeer::new(&format!("http://{address}"), None).expect("a client");
    let error = nobody.held("us").await.expect_err("nobody listens");
    assert!(matches!(error, TransportError::Connect { .. }), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}
