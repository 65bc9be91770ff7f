//! Azure Key Vault: a TLS server of the tests with real keys, which Microsoft's own client passes against too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::NotRun;
use super::fault::{Asked, Faults};
use super::keyvault::{Application, KeyVault, Kind};
use crate::artifacts;
use crate::service::KeyService;

const PEER: &str = "azure";

/// The stand-in with one signing key on P-256, [`Azure::KEY`].
#[derive(Debug)]
pub struct Azure {
    /// The server.
    pub vault: KeyVault,
    application: Application,
    directory: tempfile::TempDir,
}

impl Azure {
    /// The key that is there from the start.
    pub const KEY: &'static str = "knhk";

    /// Starts the server and makes a key. The async form is that of the other peers.
    #[allow(clippy::unused_async, reason = "every peer starts alike")]
    pub async fn start() -> Result<Self, NotRun> {
        let directory = tempfile::tempdir().map_err(NotRun::because(PEER))?;
        let application = Application {
            tenant: "0f8fad5b-d9cb-469f-a165-70867728950e".to_owned(),
            client: "7c9e6679-7425-40de-944b-e07fc1f90ae7".to_owned(),
            secret: "knhk-tests-only".to_owned(),
            assertion: "knhk-tests-assertion".to_owned(),
        };
        let ca_file = directory.path().join("ca.pem");
        let vault = KeyVault::start(application.clone(), &ca_file, Faults::new(is_sign))
            .map_err(NotRun::because(PEER))?;
        vault.with_vault(|vault| vault.create(Self::KEY, Kind::Ec, Duration::from_secs(1_767_225_600)));
        Ok(Self {
            vault,
            application,
            directory,
        })
    }

    /// The PEM of the server's authority.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A directory of its own.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// Variables for the secret of an application, which the server exchanges for tokens.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.variables(("AZURE_CLIENT_SECRET", self.application.secret.clone()))
    }

    /// Variables for workload identity, and the file that they name.
    pub fn workload_environment(&self) -> Result<Vec<(String, String)>, crate::Error> {
        let file = self.directory.path().join("token");
        std::fs::write(&file, &self.application.assertion).map_err(crate::Error::io("the token file"))?;
        Ok(self.variables(("AZURE_FEDERATED_TOKEN_FILE", file.display().to_string())))
    }

    fn variables(&self, proof: (&str, String)) -> Vec<(String, String)> {
        [
            ("AZURE_TENANT_ID", self.application.tenant.clone()),
            ("AZURE_CLIENT_ID", self.application.client.clone()),
            ("AZURE_AUTHORITY_HOST", self.vault.url()),
            proof,
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The `kms:` block for `knhk serve`.
    pub fn knhk_yaml(&self) -> String {
        format!(
            "kms: {{ provider: azure, vault_url: \"{}\", key_name: {}, ca_file: \"{}\" }}\n",
            self.vault.url(),
            Self::KEY,
            self.ca_file().display()
        )
    }

    /// What a service of the harness needs to sign with it.
    pub fn key_service(&self) -> KeyService {
        KeyService {
            yaml: self.knhk_yaml(),
            environment: self.environment(),
        }
    }
}

/// Whether a request is to sign.
pub fn is_sign(asked: &Asked) -> bool {
    asked.uri.path().ends_with("/sign")
}

/// Whether a request is for the vault, with a token.
pub fn is_authorized(asked: &Asked) -> bool {
    asked.uri.path().starts_with("/keys/") && asked.headers.contains_key("authorization")
}

/// An interpreter that has Microsoft's own client, installed on first use.
pub fn python() -> Result<String, NotRun> {
    let script = artifacts::root().join("tests/peers/azure.sh");
    let output = Command::new(script).output().map_err(NotRun::because(PEER))?;
    if !output.status.success() {
        return Err(NotRun::new(PEER, String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
