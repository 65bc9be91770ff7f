//! The REST of the data plane: a request and the vault to an answer. Reads no clock and talks to nobody.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use serde_json::{Value, json};

use super::Reply;
use super::store::{KeyError, Kind, Vault, bad_parameter};
use crate::peer::fault::Asked;

/// How many versions a page of the list has without `maxresults`, and at most.
const PAGE: usize = 25;

pub(super) fn answer(vault: &mut Vault, asked: &Asked, now: Duration) -> Reply {
    match act(vault, asked, now) {
        Ok(body) => Reply::ok(body),
        Err(error) => refuse(&error),
    }
}

fn act(vault: &mut Vault, asked: &Asked, now: Duration) -> Result<Value, KeyError> {
    let query = query(asked);
    if query.get("api-version").is_none_or(String::is_empty) {
        return Err(bad_parameter("api-version must be specified"));
    }
    let mut segments = asked.uri.path().trim_matches('/').split('/');
    let (Some("keys"), Some(name)) = (segments.next(), segments.next()) else {
        return Err(no_such_operation(asked));
    };
    let rest: Vec<&str> = segments.collect();
    match (&asked.method, rest.as_slice()) {
        (&Method::POST, ["create"]) => create(vault, name, &body(asked)?, now),
        (&Method::POST, ["rotate"]) => {
            vault.find(name, "")?;
            vault.create(name, Kind::Ec, now);
            vault.bundle(name, "")
        }
        (&Method::GET, ["versions"]) => {
            let number = |name: &str, default| match query.get(name) {
                None => Ok(default),
                Some(text) => text.parse().map_err(|_| bad_parameter(name)),
            };
            vault.page(
                name,
                number("$skiptoken", 0)?,
                number("maxresults", PAGE)?.clamp(1, PAGE),
            )
        }
        (&Method::GET, []) => vault.bundle(name, ""),
        (&Method::GET, [version]) => vault.bundle(name, version),
        (&Method::PATCH, [version]) => update(vault, name, version, &body(asked)?),
        (&Method::POST, ["sign"]) => sign(vault, name, "", &body(asked)?),
        (&Method::POST, [version, "sign"]) => sign(vault, name, version, &body(asked)?),
        (&Method::POST, ["verify"]) => verify(vault, name, "", &body(asked)?),
        (&Method::POST, [version, "verify"]) => verify(vault, name, version, &body(asked)?),
        _ => Err(no_such_operation(asked)),
    }
}

fn create(vault: &mut Vault, name: &str, body: &Value, now: Duration) -> Result<Value, KeyError> {
    match (body["kty"].as_str(), body["crv"].as_str()) {
        (Some("EC" | "EC-HSM"), None | Some("P-256")) => vault.create(name, Kind::Ec, now),
        _ => return Err(bad_parameter("only EC keys on P-256 are made here")),
    };
    if let Some(tags) = body["tags"].as_object() {
        vault.find_mut(name, "")?.tags.clone_from(tags);
    }
    vault.bundle(name, "")
}

fn update(vault: &mut Vault, name: &str, version: &str, body: &Value) -> Result<Value, KeyError> {
    let found = vault.find_mut(name, version)?;
    if let Some(enabled) = body["attributes"]["enabled"].as_bool() {
        found.enabled = enabled;
    }
    if let Some(tags) = body["tags"].as_object() {
        found.tags.clone_from(tags);
    }
    vault.bundle(name, version)
}

fn sign(vault: &Vault, name: &str, version: &str, body: &Value) -> Result<Value, KeyError> {
    let found = vault.find(name, version)?;
    let signature = found.sign(algorithm(body)?, &bytes(body, "value")?)?;
    Ok(json!({
        "kid": vault.kid(name, found),
        "value": URL_SAFE_NO_PAD.encode(signature),
    }))
}

fn verify(vault: &Vault, name: &str, version: &str, body: &Value) -> Result<Value, KeyError> {
    let found = vault.find(name, version)?;
    let good = found.verify(algorithm(body)?, &bytes(body, "digest")?, &bytes(body, "value")?)?;
    Ok(json!({ "value": good }))
}

fn algorithm(body: &Value) -> Result<&str, KeyError> {
    body["alg"]
        .as_str()
        .ok_or_else(|| bad_parameter("Property alg has no value"))
}

fn bytes(body: &Value, field: &str) -> Result<Vec<u8>, KeyError> {
    let text = body[field]
        .as_str()
        .ok_or_else(|| bad_parameter(&format!("Property {field} has no value")))?;
    URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| bad_parameter(&format!("Property {field} is not base64url")))
}

fn body(asked: &Asked) -> Result<Value, KeyError> {
    serde_json::from_slice(&asked.body).map_err(|error| bad_parameter(&error.to_string()))
}

fn query(asked: &Asked) -> HashMap<String, String> {
    let query = asked.uri.query().unwrap_or_default();
    reqwest::Url::parse(&format!("query:?{query}"))
        .map(|url| url.query_pairs().into_owned().collect())
        .unwrap_or_default()
}

fn no_such_operation(asked: &Asked) -> KeyError {
    KeyError {
        status: 404,
        code: "NotFound",
        inner: None,
        message: format!(
            "{} {} is not an operation of this vault",
            asked.method,
            asked.uri.path()
        ),
    }
}

fn refuse(error: &KeyError) -> Reply {
    let inner = error.inner.map(|code| json!({ "code": code }));
    Reply {
        status: error.status,
        challenge: None,
        body: json!({ "error": {
            "code": error.code, "message": error.message, "innererror": inner,
        } }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hyper::HeaderMap;

    fn ask(vault: &mut Vault, method: Method, uri: &str, body: &Value) -> (u16, Value) {
        let asked = Asked {
            method,
            uri: uri.parse().expect("a URI"),
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_string()),
        };
        let reply = answer(vault, &asked, Duration::from_secs(1));
        (reply.status, reply.body)
    }

    #[test]
    fn what_key_vault_refuses_is_refused_in_its_words() {
        let mut vault = Vault::new("https://v");
        vault.create("k", Kind::Ec, Duration::ZERO);
        let sign =
            |alg: &str, bytes: usize| json!({ "alg": alg, "value": URL_SAFE_NO_PAD.encode(vec![0; bytes]) });
        let none = json!({});
        for (method, uri, body, status, code) in [
            (Method::GET, "/keys/k", &none, 400, "BadParameter"),
            (Method::GET, "/keys/k?api-version=", &none, 400, "BadParameter"),
            (
                Method::GET,
                "/keys/other/?api-version=7.6",
                &none,
                404,
                "KeyNotFound",
            ),
            (
                Method::GET,
                "/keys/k/0?api-version=7.6",
                &none,
                404,
                "KeyNotFound",
            ),
            (
                Method::POST,
                "/keys/other/rotate?api-version=7.6",
                &none,
                404,
                "KeyNotFound",
            ),
            (
                Method::POST,
                "/keys/k/sign?api-version=7.6",
                &none,
                400,
                "BadParameter",
            ),
            (
                Method::POST,
                "/keys/k/sign?api-version=7.6",
                &sign("ES256", 31),
                400,
                "BadParameter",
            ),
            (
                Method::POST,
                "/keys/k/sign?api-version=7.6",
                &sign("ES384", 48),
                400,
                "BadParameter",
            ),
            (
                Method::POST,
                "/keys/k/encrypt?api-version=7.6",
                &none,
                404,
                "NotFound",
            ),
        ] {
            let (got, answer) = ask(&mut vault, method, uri, body);
            assert_eq!(
                (got, answer["error"]["code"].as_str()),
                (status, Some(code)),
                "{uri}: {answer}"
            );
        }
        let (status, answer) = ask(
            &mut vault,
            Method::POST,
            "/keys/k/sign?api-version=7.6",
            &sign("ES256", 32),
        );
        assert_eq!(status, 200, "{answer}");
    }
}
