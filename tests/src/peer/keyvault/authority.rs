//! The authority: exchanges an application's credential for a token, and says in a challenge where to come.

use std::collections::HashMap;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::Reply;
use crate::peer::fault::Asked;

/// What the vault's tokens are for.
const RESOURCE: &str = "https://vault.azure.net";

/// How long a token is good for, unless a test says otherwise.
const LIFETIME: Duration = Duration::from_secs(3600);

/// The only application that there is, and how it may prove itself.
#[derive(Clone, Debug)]
pub struct Application {
    /// The tenant's ID.
    pub tenant: String,
    /// The application's ID.
    pub client: String,
    /// Its secret.
    pub secret: String,
    /// What workload identity's token file holds for it.
    pub assertion: String,
}

#[derive(Debug)]
pub(super) struct Authority {
    url: String,
    application: Application,
    /// Tokens, and when each one ends, since the Unix epoch.
    tokens: HashMap<String, Duration>,
    lifetime: Duration,
}

impl Authority {
    pub(super) fn new(url: &str, application: Application) -> Self {
        Self {
            url: url.to_owned(),
            application,
            tokens: HashMap::new(),
            lifetime: LIFETIME,
        }
    }

    pub(super) fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime = lifetime;
    }

    pub(super) fn revoke(&mut self) {
        self.tokens.clear();
    }

    /// Answers what is for the authority, and nothing else.
    pub(super) fn answer(&mut self, asked: &Asked, now: Duration) -> Option<Reply> {
        let (_, path) = asked.uri.path().trim_start_matches('/').split_once('/')?;
        match (&asked.method, path) {
            (&Method::GET, "v2.0/.well-known/openid-configuration") => Some(Reply::ok(self.metadata())),
            (&Method::POST, "oauth2/v2.0/token") => Some(self.token(asked, now)),
            _ => None,
        }
    }

    /// Whether the request has a good token.
    pub(super) fn knows(&self, asked: &Asked, now: Duration) -> bool {
        let header = asked.headers.get("authorization");
        let token = header
            .and_then(|header| header.to_str().ok())
            .and_then(|header| header.strip_prefix("Bearer "));
        token
            .and_then(|token| self.tokens.get(token))
            .is_some_and(|&end| now < end)
    }

    /// What a request without one is answered.
    pub(super) fn challenge(&self) -> Reply {
        let authorization = format!("{}/{}", self.url, self.application.tenant);
        Reply {
            status: 401,
            challenge: Some(format!(
                r#"Bearer authorization="{authorization}", resource="{RESOURCE}""#
            )),
            body: json!({ "error": {
                "code": "Unauthorized",
                "message": "AKV10000: Request is missing a Bearer or PoP token.",
            } }),
        }
    }

    fn metadata(&self) -> Value {
        let base = format!("{}/{}", self.url, self.application.tenant);
        json!({
            "issuer": format!("{base}/v2.0"),
            "token_endpoint": format!("{base}/oauth2/v2.0/token"),
            "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
            "jwks_uri": format!("{base}/discovery/v2.0/keys"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    }

    fn token(&mut self, asked: &Asked, now: Duration) -> Reply {
        let form: HashMap<String, String> =
            reqwest::Url::parse(&format!("form:?{}", String::from_utf8_lossy(&asked.body)))
                .map(|url| url.query_pairs().into_owned().collect())
                .unwrap_or_default();
        let is = |name: &str, value: &str| form.get(name).is_some_and(|given| given == value);
        let application = &self.application;
        let tenant = format!("/{}/", application.tenant);
        if !asked.uri.path().starts_with(&tenant) || !is("client_id", &application.client) {
            return refuse(
                400,
                "unauthorized_client",
                700_016,
                "Application was not found in the directory.",
            );
        }
        if !is("grant_type", "client_credentials") || !is("scope", &format!("{RESOURCE}/.default")) {
            return refuse(
                400,
                "invalid_request",
                900_144,
                "The request body has not the right grant and scope.",
            );
        }
        let secret = is("client_secret", &application.secret);
        let assertion = is("client_assertion", &application.assertion)
            && is(
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            );
        if !secret && !assertion {
            return refuse(
                401,
                "invalid_client",
                7_000_215,
                "Invalid client secret provided.",
            );
        }
        let token = format!("{:032x}", rand::random::<u128>());
        self.tokens.insert(token.clone(), now + self.lifetime);
        Reply::ok(json!({
            "token_type": "Bearer",
            "expires_in": self.lifetime.as_secs(),
            "ext_expires_in": self.lifetime.as_secs(),
            "access_token": token,
        }))
    }
}

fn refuse(status: u16, error: &str, code: u32, words: &str) -> Reply {
    Reply {
        status,
        challenge: None,
        body: json!({
            "error": error,
            "error_description": format!("AADSTS{code}: {words}"),
            "error_codes": [code],
            "timestamp": "2026-01-01 00:00:00Z",
        }),
    }
}
