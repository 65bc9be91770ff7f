//! What may listen, or not, where the Workload API should: one line each, and never a busy loop. Time is tokio's paused
//! clock: an hour passes at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use knhk_identity::{
    Clock, Env, FIRST_UPDATE_WITHIN, Identity, Now, RETRY_CAP, Readiness, SpiffeConfig, SpiffeSection, Status,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3600);

/// The clock of the runtime.
struct Paused(Instant);

impl Clock for Paused {
    fn now(&self) -> Now {
        let steady = self.0.elapsed();
        Now {
            unix: Duration::from_secs(1_800_000_000) + steady,
            steady,
        }
    }
}

/// What an identity says after an hour with the socket at `path`.
async fn after_an_hour(path: &Path) -> Status {
    let section: SpiffeSection =
        serde_saphyr::from_str(&format!("workload_api: unix://{}", path.display())).expect("a section");
    let config: SpiffeConfig = section.validate(None).expect("valid");
    let env = Env {
        clock: Arc::new(Paused(Instant::now())),
        random: Arc::new(|| 17),
    };
    let (identity, keeper) = Identity::new(&config, env, Arc::new(()));
    let stop = CancellationToken::new();
    let task = tokio::spawn(keeper.run(stop.clone()));
    tokio::time::sleep(HOUR).await;
    let status = identity.status();
    stop.cancel();
    task.await.expect("it ends when it is told to");
    identity.current().expect_err("there is none");
    status
}

/// One line that says `why`, and at most so many attempts as the waits allow where each takes `each` at least.
async fn expect(path: &Path, why: &str, each: Duration) {
    let status = after_an_hour(path).await;
    let error = status.source.last_error.clone().expect("a reason");
    assert!(error.contains(why), "{error}");
    assert!(
        error.starts_with("spiffe.workload_api: ") && !error.contains('\n'),
        "{error}"
    );
    assert!(!status.source.connected);
    let Readiness::Fails(detail) = status.readiness else {
        panic!("it is ready: {:?}", status.readiness);
    };
    assert!(detail.contains(why), "{detail}");
    // After the first dozen each wait is at least half the cap.
    let most = HOUR.as_secs_f64() / (RETRY_CAP / 2 + each).as_secs_f64() + 12.0;
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    let attempts = status.source.attempts as f64;
    assert!(attempts <= most, "{attempts} attempts, at most {most}");
    assert!(attempts >= 100.0, "{attempts} attempts: it gave up");
}

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.sock");
    (directory, path)
}

/// Listens at `path` and serves each connection with `serve`.
fn listen<F: Future<Output = ()> + Send + 'static>(
    path: &Path,
    serve: impl Fn(UnixStream) -> F + Send + 'static,
) {
    let listener = UnixListener::bind(path).expect("a socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_missing() {
    let (_directory, path) = directory();
    expect(&path, "there is no socket", Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_plain_file() {
    let (_directory, path) = directory();
    std::fs::write(&path, "not a socket").expect("writes");
    expect(&path, "is not a socket", Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_directory() {
    let (directory, _) = directory();
    expect(directory.path(), "is not a socket", Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_socket_where_nobody_listens_any_longer() {
    let (_directory, path) = directory();
    drop(UnixListener::bind(&path).expect("a socket"));
    expect(&path, "nobody listens", Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_listens_and_never_accepts() {
    let (_directory, path) = directory();
    let _listener = UnixListener::bind(&path).expect("a socket");
    expect(&path, "gave nothing within 10s", FIRST_UPDATE_WITHIN).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_reads_and_says_nothing() {
    let (_directory, path) = directory();
    listen(&path, async |mut stream: UnixStream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
    });
    expect(&path, "gave nothing within 10s", FIRST_UPDATE_WITHIN).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_closes_at_once() {
    let (_directory, path) = directory();
    listen(&path, async |stream| drop(stream));
    expect(&path, "broke, or it is not the Workload API", Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_sends_garbage() {
    let (_directory, path) = directory();
    listen(&path, async |mut stream: UnixStream| {
        let _ = stream.write_all(&[0xa5; 4096]).await;
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
    });
    expect(&path, "broke, or it is not the Workload API", Duration::ZERO).await;
}

/// What follows an answer's body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Waits,
    Closes,
}

/// Answers each call with the head of a gRPC answer and `body`.
async fn grpc(stream: UnixStream, body: &'static [u8], then: Then) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let mut answers = Vec::new();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let head = tonic::codegen::http::Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .expect("a head");
        let mut send = respond.send_response(head, false).expect("it is sent");
        send.send_data(Bytes::from_static(body), false)
            .expect("it is sent");
        if then == Then::Closes {
            // The frames go out, and the connection ends without a word.
            let _ = futures::future::poll_immediate(connection.accept()).await;
            return;
        }
        // Dropped, it would end its stream.
        answers.push(send);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_closes_in_the_middle_of_a_message() {
    let (_directory, path) = directory();
    // A message of 1,000 bytes is announced, and three come.
    listen(&path, async |stream| {
        grpc(stream, &[0, 0, 0, 3, 232, 1, 2, 3], Then::Closes).await;
    });
    expect(&path, "broke, or it is not the Workload API", Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_sends_messages_of_garbage() {
    let (_directory, path) = directory();
    listen(&path, async |stream| {
        grpc(stream, &[0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff], Then::Waits).await;
    });
    expect(&path, "broke, or it is not the Workload API", Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_sends_an_update_without_anything_in_it() {
    let (_directory, path) = directory();
    listen(&path, async |stream| {
        grpc(stream, &[0, 0, 0, 0, 0], Then::Waits).await;
    });
    let status = after_an_hour(&path).await;
    assert!(status.refused_updates["missing_field"] >= 100, "{status:?}");
    assert!(status.refused_updates["missing_field"] <= status.source.attempts);
    assert!(status.source.attempts <= 800, "{status:?}");
    let refusal = status.last_refusal.expect("it was refused");
    assert!(refusal.contains("X509SVIDResponse.svids"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn one_that_announces_more_than_is_taken() {
    let (_directory, path) = directory();
    listen(&path, async |stream| {
        grpc(stream, &[0, 0x7f, 0xff, 0xff, 0xff, 0], Then::Waits).await;
    });
    let status = after_an_hour(&path).await;
    assert!(status.refused_updates["over_sized"] >= 100, "{status:?}");
    assert!(status.source.attempts <= 800, "{status:?}");
}
