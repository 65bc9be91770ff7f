//! Addresses of providers and the authorities that vouch for them, as the configuration gives them.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use reqwest::{Certificate, Url};

use crate::KmsError;

/// The largest CA file that is read, in bytes.
pub(crate) const MAX_CA_FILE_BYTES: u64 = 1024 * 1024;

/// Parses `https://HOST[:PORT][/PATH]`. Plain `http` may lead to this machine only, since a credential travels with every
/// request. `field` is the setting or the variable that `text` is from.
pub(crate) fn parse(field: &'static str, text: &str) -> Result<Url, KmsError> {
    let url = Url::parse(text)
        .map_err(|error| setting(field, format!("is not a URL ({error}); write https://HOST:PORT")))?;
    // The text itself stays out of the errors: a password may be in it.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(setting(field, "has a user or password; leave them out"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(setting(field, "has a query or fragment; write https://HOST:PORT"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err(setting(
            field,
            "is plain http to another machine, which would show the credential to the network; write https://HOST:PORT",
        )),
        scheme => Err(setting(
            field,
            format!("begins with `{scheme}:`; write https://HOST:PORT"),
        )),
    }
}

/// Whether the address is this machine's own, so that no network is between.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The certificates in a PEM file.
pub(crate) fn authorities(field: &'static str, path: &Path) -> Result<Vec<Certificate>, KmsError> {
    let refuse = |reason: String| setting(field, format!("`{}` {reason}", path.display()));
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CA_FILE_BYTES + 1).read_to_end(&mut pem))
        .map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if pem.len() as u64 > MAX_CA_FILE_BYTES {
        return Err(refuse(format!("has more than {MAX_CA_FILE_BYTES} bytes")));
    }
    let certificates = Certificate::from_pem_bundle(&pem)
        .map_err(|_| refuse("is not PEM; give the authority's certificate as a PEM block".to_owned()))?;
    if certificates.is_empty() {
        return Err(refuse(
            "has no certificate; give the authority's as a PEM block".to_owned(),
        ));
    }
    Ok(certificates)
}

/// A setting, or the variable that stands for it, has no usable value.
pub(crate) fn setting(field: &'static str, reason: impl Into<String>) -> KmsError {
    KmsError::Setting {
        field,
        reason: reason.into(),
    }
}
