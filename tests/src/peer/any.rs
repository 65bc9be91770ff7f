//! Whichever key service was asked for.

use std::str::FromStr;

use super::NotRun;
use super::aws::Aws;
use super::azure::Azure;
use super::vault::Vault;
use crate::service::KeyService;

/// The key services that KNHK signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// A key in a file, which needs no peer.
    Local,
    /// AWS KMS.
    Aws,
    /// Azure Key Vault.
    Azure,
    /// HashiCorp Vault.
    Vault,
}

/// One that runs until it is dropped.
#[derive(Debug)]
pub enum AnyPeer {
    /// There is nothing to run.
    Local,
    /// moto, corrected.
    Aws(Box<Aws>),
    /// The stand-in with real keys.
    Azure(Box<Azure>),
    /// Vault's own Transit engine.
    Vault(Box<Vault>),
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "local" => Ok(Self::Local),
            "aws" => Ok(Self::Aws),
            "azure" => Ok(Self::Azure),
            "vault" => Ok(Self::Vault),
            _ => Err(format!("`{name}` is none of local, aws, azure, vault")),
        }
    }
}

impl Provider {
    /// Starts its peer, with a key in it.
    pub async fn start(self) -> Result<AnyPeer, NotRun> {
        Ok(match self {
            Self::Local => AnyPeer::Local,
            Self::Aws => AnyPeer::Aws(Box::new(Aws::start().await?)),
            Self::Azure => AnyPeer::Azure(Box::new(Azure::start().await?)),
            Self::Vault => AnyPeer::Vault(Box::new(Vault::start().await?)),
        })
    }
}

impl AnyPeer {
    /// What a service of the harness needs to sign with it.
    pub fn key_service(&self) -> KeyService {
        match self {
            Self::Local => KeyService::default(),
            Self::Aws(peer) => peer.key_service(),
            Self::Azure(peer) => peer.key_service(),
            Self::Vault(peer) => KeyService {
                yaml: peer.knhk_yaml(),
                environment: peer.environment(),
            },
        }
    }

    /// What runs, for a person.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Local => "a key in a file",
            Self::Aws(_) => "AWS KMS, played by moto",
            Self::Azure(_) => "Azure Key Vault, played by a stand-in with real keys",
            Self::Vault(_) => "HashiCorp Vault's own Transit engine",
        }
    }
}
