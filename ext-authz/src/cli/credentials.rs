//! Who the command line is, for a service behind mutual TLS, and who that service has to be.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use knhk_identity::{
    Allow, Alpn, ClientCertificate, Connector, ENDPOINT_VARIABLE, Env, HandshakeError, IdPattern, Identity,
    MAX_PEM_BYTES, Observer, PeerError, Refresh, Roles, Side, SourceError, SpiffeConfig, SpiffeId,
    WorkloadApi,
};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Failure, input};

/// How long an SVID is waited for. An agent answers at once, unless the registration entry is so new that it does not know
/// it yet.
const IDENTITY_WITHIN: Duration = Duration::from_secs(10);

/// A service that refuses us says so at once after the handshake.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// With which identity `https` is spoken, and with whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct CredentialArgs {
    /// The SPIFFE Workload API that gives the identity for `https`: `unix:///run/spire/agent.sock`.
    #[arg(long, value_name = "ADDRESS", env = ENDPOINT_VARIABLE, global = true)]
    workload_api: Option<String>,
    /// A client certificate instead: an X.509-SVID in PEM, leaf first. Goes before the Workload API.
    #[arg(long, value_name = "FILE", env = "KNHK_CLIENT_CERT", global = true)]
    client_cert: Option<PathBuf>,
    /// Its private key in PEM, PKCS#8.
    #[arg(long, value_name = "FILE", env = "KNHK_CLIENT_KEY", global = true)]
    client_key: Option<PathBuf>,
    /// The authorities of its trust domain in PEM, which have to stand behind the service as well.
    #[arg(long, value_name = "FILE", env = "KNHK_CA", global = true)]
    ca: Option<PathBuf>,
    /// The service's SPIFFE ID, or `spiffe://…/*`; without it any of our own trust domain.
    #[arg(long, value_name = "SPIFFE_ID", env = "KNHK_SERVER_ID", global = true)]
    server_id: Option<String>,
}

/// An identity that is held, and what its handshakes said.
pub(super) struct Credentials {
    identity: Identity,
    id: SpiffeId,
    allow: Allow,
    seen: Arc<Seen>,
    /// The task that keeps an SVID of the Workload API ends with this.
    _keeper: Option<DropGuard>,
}

impl Credentials {
    /// Reads the files, or waits for the Workload API's first answer. `server` is for messages.
    pub(super) async fn obtain(args: &CredentialArgs, server: &str) -> Result<Self, Failure> {
        let seen = Arc::new(Seen::default());
        let (identity, keeper) = match (args.files()?, &args.workload_api) {
            (Some(files), _) => (files.identity(Arc::<Seen>::clone(&seen))?, None),
            (None, Some(address)) => {
                let (identity, keeper) = from_workload_api(address, &seen).await?;
                (identity, Some(keeper))
            }
            (None, None) => {
                return Err(Failure::new(format!(
                    "--server {server}: https needs an identity of yours; set {ENDPOINT_VARIABLE} or --workload-api, or give --client-cert, --client-key and --ca"
                )));
            }
        };
        let held = identity.current().map_err(super::failed)?;
        let id = held.id().clone();
        let servers = match &args.server_id {
            Some(text) => text
                .parse::<IdPattern>()
                .map_err(|error| Failure::new(format!("--server-id: {error}")))?,
            None => whole(&id)?,
        };
        Ok(Self {
            identity,
            id,
            allow: Allow::Ids(vec![servers]),
            seen,
            _keeper: keeper,
        })
    }

    /// The client speaks mutual TLS. The service has HTTP/1.1 for operators.
    pub(super) fn over_tls(&self, client: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        let config = self.identity.client_config(self.allow.clone(), &[Alpn::Http1]);
        client.tls_backend_preconfigured(config).https_only(true)
    }

    /// What went wrong with a request to `base`, where identities or TLS are the reason.
    pub(super) async fn why(&self, error: &reqwest::Error, base: &str) -> Option<String> {
        if let Some(refused) = self.seen.refused() {
            return Some(format!(
                "the service is not trusted: {refused}; look at --server, and at --server-id if the service has another SPIFFE ID"
            ));
        }
        if let Err(none) = self.identity.current() {
            return Some(none.to_string());
        }
        let why = match HandshakeError::within(error) {
            Some(why) => why,
            None if error.is_timeout() => return None,
            None => self.asked_again(base).await?,
        };
        Some(format!("no connection as {}: {why}", self.id))
    }

    /// The service's refusal, which the HTTP client may lose: in TLS 1.3 it comes after the handshake, and if it comes before
    /// the request is written, the client says no more than that the connection is gone.
    async fn asked_again(&self, base: &str) -> Option<HandshakeError> {
        let url = reqwest::Url::parse(base).ok()?;
        let address = format!("{}:{}", url.host_str()?, url.port_or_known_default()?);
        let connector = Connector::new(self.identity.clone(), self.allow.clone(), Alpn::Http1);
        let mut connection = match connector.connect(&address).await {
            Ok(connection) => connection,
            Err(error) => return matches!(error, HandshakeError::RefusedByPeer(_)).then_some(error),
        };
        // Nothing is asked, so whoever lets us in says nothing.
        match tokio::time::timeout(REFUSED_WITHIN, connection.read_u8()).await {
            Ok(Err(error)) => HandshakeError::refused_later(&error),
            Ok(Ok(_)) | Err(_) => None,
        }
    }
}

/// Every ID of this one's trust domain.
fn whole(id: &SpiffeId) -> Result<IdPattern, Failure> {
    let pattern = format!("spiffe://{}/*", id.trust_domain());
    pattern.parse().map_err(super::failed)
}

/// The names of the three files.
struct Files<'a> {
    chain: &'a Path,
    key: &'a Path,
    authorities: &'a Path,
}

impl CredentialArgs {
    /// All three files, or none.
    fn files(&self) -> Result<Option<Files<'_>>, Failure> {
        match (&self.client_cert, &self.client_key, &self.ca) {
            (None, None, None) => Ok(None),
            (Some(chain), Some(key), Some(authorities)) => Ok(Some(Files {
                chain,
                key,
                authorities,
            })),
            _ => Err(Failure::new(
                "--client-cert, --client-key and --ca belong together; give all three, or none of them to use the Workload API",
            )),
        }
    }
}

impl Files<'_> {
    fn identity(&self, observer: Arc<dyn Observer>) -> Result<Identity, Failure> {
        let [chain, key, authorities] =
            [self.chain, self.key, self.authorities].map(|path| input::bytes(path, MAX_PEM_BYTES));
        let pem = ClientCertificate {
            chain: &chain?,
            key: &key?,
            authorities: &authorities?,
        };
        Identity::of_client_certificate(pem, Env::system(), observer)
            .map_err(|error| Failure::new(format!("--client-cert {}: {error}", self.chain.display())))
    }
}

/// An SVID, once there is one, and what keeps it new for as long as the command runs.
async fn from_workload_api(address: &str, seen: &Arc<Seen>) -> Result<(Identity, DropGuard), Failure> {
    let workload_api =
        WorkloadApi::parse(address).map_err(|reason| Failure::new(format!("--workload-api: {reason}")))?;
    let config = SpiffeConfig {
        workload_api,
        trust_domain: None,
        refresh: Refresh::Auto,
        roles: Roles::default(),
    };
    let (identity, keeper) = Identity::new(&config, Env::system(), Arc::<Seen>::clone(seen));
    let stop = CancellationToken::new();
    tokio::spawn(keeper.run(stop.clone()));
    let why = tokio::select! {
        held = identity.later_than(0) => match held {
            Ok(_) => return Ok((identity, stop.drop_guard())),
            Err(none) => none.to_string(),
        },
        error = seen.hopeless() => error.to_string(),
        () = tokio::time::sleep(IDENTITY_WITHIN) => match identity.status().source.last_error {
            Some(error) => error,
            None => identity.status().readiness.to_string(),
        },
    };
    stop.cancel();
    // The text names the field of the service's configuration; here it is an option.
    Err(Failure::new(why.replace("spiffe.workload_api", "--workload-api")))
}

/// What the identity's task and its handshakes reported.
#[derive(Default)]
struct Seen {
    refused: Mutex<Option<PeerError>>,
    hopeless: watch::Sender<Option<SourceError>>,
}

impl Seen {
    fn refused(&self) -> Option<PeerError> {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for a failure of the Workload API that does not pass by itself.
    async fn hopeless(&self) -> SourceError {
        let mut newest = self.hopeless.subscribe();
        loop {
            if let Some(error) = &*newest.borrow_and_update() {
                return error.clone();
            }
            if newest.changed().await.is_err() {
                // The sender is ours, so it is there.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Observer for Seen {
    fn source_failed(&self, error: &SourceError) {
        let passes = matches!(
            error,
            SourceError::NoIdentity { .. } | SourceError::Ended { .. } | SourceError::Broken { .. }
        );
        if !passes {
            self.hopeless.send_replace(Some(error.clone()));
        }
    }

    fn peer_refused(&self, _ours: Side, error: &PeerError) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }
}
