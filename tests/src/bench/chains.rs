//! The chains of filters that are compared, each made from the operators' configuration.

use serde_json::{Value, json};

use crate::envoy::EnvoyConfig;
use crate::mesh::{EXT_AUTHZ, EXT_PROC, FILTER};
use crate::{Error, artifacts};

/// The share that goes to the canary in every chain, in percent.
pub(super) const WEIGHT: u32 = 20;

/// A chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chain {
    /// Envoy's own weighted clusters, and nothing of ours.
    Native,
    /// The same behind a wasm filter that does nothing.
    Empty,
    /// `envoy/envoy.yaml` as it is.
    Filter,
    /// The same with a Lua filter in the filter's place.
    Lua,
    /// `envoy/envoy-ext-authz.yaml`, recording nothing.
    CheckOnly,
    /// `envoy/envoy-ext-authz.yaml`: a durable receipt before each request goes on.
    CheckAndRecord,
    /// `envoy/envoy-ext-proc.yaml`: a durable receipt with the outcome before each response goes on.
    ProcessAndRecord,
}

impl Chain {
    pub(super) const ALL: [Self; 7] = [
        Self::Native,
        Self::Empty,
        Self::Filter,
        Self::Lua,
        Self::CheckOnly,
        Self::CheckAndRecord,
        Self::ProcessAndRecord,
    ];

    /// As the table calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native weighted clusters",
            Self::Empty => "empty wasm filter",
            Self::Filter => "KNHK filter, reports on",
            Self::Lua => "Lua filter, same work",
            Self::CheckOnly => "ext_authz to knhk, no receipts",
            Self::CheckAndRecord => "ext_authz to knhk, durable receipts",
            Self::ProcessAndRecord => "ext_proc to knhk, durable receipts with the outcome",
        }
    }

    /// Its configuration, with the operators' addresses still in it.
    pub(super) fn config(self) -> Result<EnvoyConfig, Error> {
        let mut config = EnvoyConfig::load(match self {
            Self::CheckOnly | Self::CheckAndRecord => EXT_AUTHZ,
            Self::ProcessAndRecord => EXT_PROC,
            Self::Native | Self::Empty | Self::Filter | Self::Lua => FILTER,
        })?;
        match self {
            Self::Filter => {}
            Self::Native => {
                config.http_filters()?.retain(|filter| filter["name"] != "knhk");
                split_natively(&mut config)?;
            }
            Self::Empty => {
                config.set_filter_file(&artifacts::empty_filter()?)?;
                split_natively(&mut config)?;
            }
            Self::Lua => *config.http_filter("knhk")? = lua()?,
            Self::CheckOnly => {
                config.make_check_patient()?;
                config.check_options()?["record"] = json!("none");
            }
            Self::CheckAndRecord | Self::ProcessAndRecord => config.make_patient()?,
        }
        Ok(config)
    }
}

/// Routes by Envoy's own random draw, without anything that only KNHK needs.
fn split_natively(config: &mut EnvoyConfig) -> Result<(), Error> {
    let manager = config.connection_manager()?;
    if let Some(fields) = manager.as_object_mut() {
        fields.remove("early_header_mutation_extensions");
    }
    manager["route_config"]["virtual_hosts"][0]["routes"] = json!([{
        "match": { "prefix": "/" },
        "route": { "weighted_clusters": { "clusters": [
            { "name": "stable", "weight": 100 - WEIGHT },
            { "name": "canary", "weight": WEIGHT },
        ] } },
    }]);
    Ok(())
}

fn lua() -> Result<Value, Error> {
    let script = artifacts::root().join("tests/bench/split.lua");
    let source = std::fs::read_to_string(&script).map_err(Error::io(format!("{}", script.display())))?;
    Ok(json!({
        "name": "lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": { "inline_string": source },
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::validate;

    #[test]
    fn envoy_takes_every_chain() {
        for chain in Chain::ALL {
            let taken = validate(&chain.config().expect("a configuration"));
            assert!(taken.is_ok(), "{}: {taken:?}", chain.name());
        }
    }
}
