//! Who KNHK is to Azure. One kind of credential is chosen when it starts, by what the environment holds, in this order; kinds that
//! are for people (the command line tools of developers) are not tried.
//!
//! 1. `AZURE_CLIENT_SECRET`, with `AZURE_TENANT_ID` and `AZURE_CLIENT_ID`: the secret of an application.
//! 2. `AZURE_FEDERATED_TOKEN_FILE`, with the same two: workload identity, as its webhook sets it in a pod of AKS.
//! 3. Otherwise the managed identity of the machine or the app, user-assigned if `AZURE_CLIENT_ID` names one.

use std::path::PathBuf;
use std::sync::Arc;

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::{ClientOptions, RetryOptions, Transport};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};

use super::AzureConfig;
use crate::address::{self, setting};
use crate::{Env, KmsError};

/// The kind that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ClientSecret,
    WorkloadIdentity,
    ManagedIdentity,
}

/// A credential and its kind.
pub(super) struct Chosen {
    pub(super) kind: Kind,
    pub(super) credential: Arc<dyn TokenCredential>,
}

/// Chooses a credential. It asks for its first token when the vault demands one.
pub(super) fn choose(config: &AzureConfig, env: &Env, transport: Transport) -> Result<Chosen, KmsError> {
    let options = ClientOptions {
        retry: RetryOptions::none(),
        transport: Some(transport),
        cloud: authority(config, env)?.map(Arc::new),
        ..ClientOptions::default()
    };
    let client_id = env.variable("AZURE_CLIENT_ID");
    let (kind, variable, made) = if let Some(secret) = env.variable("AZURE_CLIENT_SECRET") {
        let (tenant, client) = application(env, client_id, "AZURE_CLIENT_SECRET")?;
        let options = ClientSecretCredentialOptions {
            client_options: options,
        };
        let made = ClientSecretCredential::new(&tenant, client, Secret::new(secret), Some(options));
        (Kind::ClientSecret, "AZURE_TENANT_ID", made.map(as_credential))
    } else if let Some(file) = env.variable("AZURE_FEDERATED_TOKEN_FILE") {
        let (tenant, client) = application(env, client_id, "AZURE_FEDERATED_TOKEN_FILE")?;
        let made = WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
            credential_options: ClientAssertionCredentialOptions {
                client_options: options,
            },
            client_id: Some(client),
            tenant_id: Some(tenant),
            token_file_path: Some(PathBuf::from(file)),
        }));
        let variable = "AZURE_FEDERATED_TOKEN_FILE";
        (Kind::WorkloadIdentity, variable, made.map(as_credential))
    } else {
        let made = ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
            user_assigned_id: client_id.map(UserAssignedId::ClientId),
            client_options: options,
        }));
        (Kind::ManagedIdentity, "AZURE_CLIENT_ID", made.map(as_credential))
    };
    match made {
        Ok(credential) => Ok(Chosen { kind, credential }),
        Err(error) => Err(setting(variable, format!("does not serve: {error}"))),
    }
}

fn as_credential<C: TokenCredential + 'static>(credential: Arc<C>) -> Arc<dyn TokenCredential> {
    credential
}

/// Tenant and client of an application.
fn application(env: &Env, client: Option<String>, because: &str) -> Result<(String, String), KmsError> {
    let missing = |name| setting(name, format!("is missing, and {because} is set; set both"));
    Ok((
        env.variable("AZURE_TENANT_ID")
            .ok_or_else(|| missing("AZURE_TENANT_ID"))?,
        client.ok_or_else(|| missing("AZURE_CLIENT_ID"))?,
    ))
}

/// Where tokens come from, unless it is the public cloud.
fn authority(config: &AzureConfig, env: &Env) -> Result<Option<CloudConfiguration>, KmsError> {
    let (field, authority) = match &config.authority {
        Some(authority) => ("kms.authority", Some(authority.clone())),
        None => ("AZURE_AUTHORITY_HOST", env.variable("AZURE_AUTHORITY_HOST")),
    };
    let Some(authority) = authority else {
        return Ok(None);
    };
    if address::parse(field, &authority)?.scheme() != "https" {
        return Err(setting(
            field,
            "is not https; write for example https://login.microsoftonline.com",
        ));
    }
    let mut custom = CustomConfiguration::default();
    custom.authority_host = authority;
    Ok(Some(custom.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use azure_core::Bytes;
    use azure_core::http::headers::Headers;
    use azure_core::http::{AsyncRawResponse, Body, HttpClient, Request, StatusCode};

    use super::*;
    use crate::testing::env_with;

    const SCOPE: &str = "https://vault.azure.net/.default";
    const TENANT: (&str, &str) = ("AZURE_TENANT_ID", "tenant");
    const CLIENT: (&str, &str) = ("AZURE_CLIENT_ID", "client");

    /// Answers every request for a token, and keeps what it was asked.
    #[derive(Debug, Default)]
    struct TokenService(Mutex<Vec<(String, String, bool)>>);

    #[async_trait]
    impl HttpClient for TokenService {
        async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
            let body = match request.body() {
                Body::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Body::SeekableStream(_) => String::new(),
            };
            let metadata = request
                .headers()
                .iter()
                .any(|(name, _)| name.as_str() == "metadata");
            let asked = (request.url().to_string(), body, metadata);
            self.0.lock().expect("not poisoned").push(asked);
            let answer = r#"{"access_token":"token","expires_in":3600,"expires_on":"4000000000","token_type":"Bearer","resource":"r"}"#;
            Ok(AsyncRawResponse::from_bytes(
                StatusCode::Ok,
                Headers::new(),
                Bytes::from_static(answer.as_bytes()),
            ))
        }
    }

    fn choose_with(variables: &[(&str, &str)]) -> (Result<Chosen, KmsError>, Arc<TokenService>) {
        let service = Arc::new(TokenService::default());
        let transport = Transport::new(service.clone());
        let chosen = choose(&AzureConfig::default(), &env_with(variables), transport);
        (chosen, service)
    }

    async fn token(variables: &[(&str, &str)]) -> (Kind, (String, String, bool)) {
        let (chosen, service) = choose_with(variables);
        let chosen = chosen.expect("a credential");
        let token = chosen
            .credential
            .get_token(&[SCOPE], None)
            .await
            .expect("a token");
        assert_eq!(token.token.secret(), "token");
        let asked = service.0.lock().expect("not poisoned").pop().expect("a request");
        (chosen.kind, asked)
    }

    #[tokio::test]
    async fn a_client_secret_goes_to_the_authority_of_the_environment() {
        let (kind, (url, body, _)) = token(&[
            ("AZURE_CLIENT_SECRET", "s3cret"),
            ("AZURE_FEDERATED_TOKEN_FILE", "/nowhere"),
            ("AZURE_AUTHORITY_HOST", "https://login.example"),
            TENANT,
            CLIENT,
        ])
        .await;
        assert_eq!(kind, Kind::ClientSecret);
        assert_eq!(url, "https://login.example/tenant/oauth2/v2.0/token");
        assert!(
            body.contains("client_secret=s3cret") && body.contains("client_id=client"),
            "{body}"
        );
    }

    #[tokio::test]
    async fn workload_identity_sends_the_token_of_its_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "assertion").expect("writes");
        let path = file.path().to_str().expect("UTF-8");
        let (kind, (url, body, _)) = token(&[("AZURE_FEDERATED_TOKEN_FILE", path), TENANT, CLIENT]).await;
        assert_eq!(kind, Kind::WorkloadIdentity);
        assert_eq!(url, "https://login.microsoftonline.com/tenant/oauth2/v2.0/token");
        assert!(body.contains("client_assertion=assertion"), "{body}");
    }

    #[tokio::test]
    async fn otherwise_the_machine_is_asked_for_its_identity() {
        for (variables, user_assigned) in [(&[][..], false), (&[CLIENT][..], true)] {
            let (kind, (url, _, metadata)) = token(variables).await;
            assert_eq!(kind, Kind::ManagedIdentity);
            assert!(
                url.starts_with("http://169.254.169.254/metadata/identity/"),
                "{url}"
            );
            assert_eq!(url.contains("client_id=client"), user_assigned, "{url}");
            assert!(metadata, "without the header the machine refuses");
        }
    }

    #[test]
    fn half_a_credential_is_refused_and_no_other_kind_is_taken() {
        for (variables, field) in [
            (
                &[("AZURE_CLIENT_SECRET", "s3cret"), CLIENT][..],
                "AZURE_TENANT_ID",
            ),
            (&[("AZURE_CLIENT_SECRET", "s3cret"), TENANT], "AZURE_CLIENT_ID"),
            (
                &[("AZURE_FEDERATED_TOKEN_FILE", "/nowhere"), TENANT],
                "AZURE_CLIENT_ID",
            ),
            (
                &[("AZURE_AUTHORITY_HOST", "http://login.example")],
                "AZURE_AUTHORITY_HOST",
            ),
            (&[("AZURE_AUTHORITY_HOST", "login")], "AZURE_AUTHORITY_HOST"),
        ] {
            let error = choose_with(variables).0.err().expect("refused").to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
