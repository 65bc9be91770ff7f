//! The operators' Envoy configurations, with addresses and paths put in place for a run.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::{Error, artifacts};

/// A bootstrap of `envoy/*.yaml`, as a tree that can be changed. A change of something that is not there is an error.
#[derive(Debug, Clone)]
pub struct EnvoyConfig {
    name: String,
    tree: Value,
}

impl EnvoyConfig {
    /// Reads a file of the repository, such as `envoy/envoy.yaml`, and gives the filter its absolute path.
    pub fn load(file: &str) -> Result<Self, Error> {
        let text = std::fs::read_to_string(artifacts::root().join(file)).map_err(Error::io(file))?;
        let tree = serde_saphyr::from_str(&text).map_err(|error| Error::Config {
            file: file.to_owned(),
            reason: error.to_string(),
        })?;
        let mut config = Self {
            name: file.to_owned(),
            tree,
        };
        if config.http_filter_position("knhk").is_some() {
            config.set_filter_file(&artifacts::filter()?)?;
        }
        Ok(config)
    }

    /// The file it came from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes it for Envoy.
    pub fn write(&self, file: &Path) -> Result<(), Error> {
        std::fs::write(file, self.tree.to_string()).map_err(Error::io(format!("{}", file.display())))
    }

    /// Any part, by JSON pointer.
    pub fn at(&mut self, pointer: &str) -> Result<&mut Value, Error> {
        let file = self.name.clone();
        self.tree.pointer_mut(pointer).ok_or_else(|| Error::Config {
            file,
            reason: format!("it has no {pointer}"),
        })
    }

    /// The proxy's name.
    pub fn set_node(&mut self, id: &str) -> Result<(), Error> {
        *self.at("/node/id")? = json!(id);
        Ok(())
    }

    /// Where its admin page is.
    pub fn admin(&self) -> Result<SocketAddr, Error> {
        self.address_at("/admin/address")
    }

    /// Puts its admin page somewhere else.
    pub fn set_admin(&mut self, address: SocketAddr) -> Result<(), Error> {
        set_address(self.at("/admin/address")?, address);
        Ok(())
    }

    /// The addresses of its listeners.
    pub fn listeners(&self) -> Result<Vec<SocketAddr>, Error> {
        let count = self
            .tree
            .pointer("/static_resources/listeners")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        (0..count)
            .map(|index| self.address_at(&format!("/static_resources/listeners/{index}/address")))
            .collect()
    }

    /// Puts a listener somewhere else.
    pub fn set_listener(&mut self, index: usize, address: SocketAddr) -> Result<(), Error> {
        set_address(
            self.at(&format!("/static_resources/listeners/{index}/address"))?,
            address,
        );
        Ok(())
    }

    /// Takes clusters from another configuration, in place of its own of the same names or beside them.
    pub fn take_clusters(&mut self, from: &Self, names: &[&str]) -> Result<(), Error> {
        const CLUSTERS: &str = "/static_resources/clusters";
        let mut from = from.clone();
        let theirs = from.at(CLUSTERS)?.as_array().cloned().unwrap_or_default();
        let file = self.name.clone();
        let Some(ours) = self.at(CLUSTERS)?.as_array_mut() else {
            let reason = "clusters is no list".to_owned();
            return Err(Error::Config { file, reason });
        };
        for name in names {
            let Some(taken) = theirs.iter().find(|cluster| cluster["name"] == *name) else {
                let reason = format!("it has no cluster {name}");
                return Err(Error::Config {
                    file: from.name,
                    reason,
                });
            };
            ours.retain(|cluster| cluster["name"] != *name);
            ours.push(taken.clone());
        }
        Ok(())
    }

    /// A cluster, by name.
    pub fn cluster(&mut self, name: &str) -> Result<&mut Value, Error> {
        let file = self.name.clone();
        let clusters = self.at("/static_resources/clusters")?.as_array_mut();
        clusters
            .and_then(|clusters| clusters.iter_mut().find(|candidate| candidate["name"] == name))
            .ok_or_else(|| Error::Config {
                file,
                reason: format!("it has no cluster {name}"),
            })
    }

    /// Where SPIRE's agent gives it certificates.
    pub fn set_agent(&mut self, socket: &Path) -> Result<(), Error> {
        let agent = self.cluster("spire_agent")?;
        agent["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] =
            json!({ "pipe": { "path": socket } });
        Ok(())
    }

    /// Points a cluster to another address.
    pub fn set_cluster(&mut self, cluster: &str, address: SocketAddr) -> Result<(), Error> {
        let file = self.name.clone();
        let endpoint = self
            .cluster(cluster)?
            .pointer_mut("/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address")
            .ok_or_else(|| Error::Config {
                file,
                reason: format!("its cluster {cluster} has no static address"),
            })?;
        set_address(endpoint, address);
        Ok(())
    }

    /// An HTTP filter of the first listener, by name.
    pub fn http_filter(&mut self, name: &str) -> Result<&mut Value, Error> {
        let position = self.http_filter_position(name).ok_or_else(|| Error::Config {
            file: self.name.clone(),
            reason: format!("it has no HTTP filter {name}"),
        })?;
        self.at(&format!("{HTTP_FILTERS}/{position}"))
    }

    /// The HTTP filters of the first listener, in order.
    pub fn http_filters(&mut self) -> Result<&mut Vec<Value>, Error> {
        let file = self.name.clone();
        self.at(HTTP_FILTERS)?
            .as_array_mut()
            .ok_or_else(|| Error::Config {
                file,
                reason: "http_filters is no list".to_owned(),
            })
    }

    /// The plugin's `config` of the KNHK filter: its VM, failure policy and configuration.
    pub fn plugin(&mut self) -> Result<&mut Value, Error> {
        Ok(&mut self.http_filter("knhk")?["typed_config"]["config"])
    }

    /// Gives the KNHK filter another configuration.
    pub fn configure_filter(&mut self, configuration: &Value) -> Result<(), Error> {
        self.plugin()?["configuration"]["value"] = json!(configuration.to_string());
        Ok(())
    }

    /// What the routes ask of `ext_authz`: `record`, `wait_timeout`, `on_error`.
    pub fn check_options(&mut self) -> Result<&mut Value, Error> {
        self.at(&format!("{CONNECTION_MANAGER}/route_config/virtual_hosts/0/typed_per_filter_config/{EXT_AUTHZ}/check_settings/context_extensions"))
    }

    /// Lets `ext_authz` wait for as long as any test may take, so that a busy disk fails none.
    pub fn make_check_patient(&mut self) -> Result<(), Error> {
        self.http_filter(EXT_AUTHZ)?["typed_config"]["grpc_service"]["timeout"] = json!("20s");
        self.check_options()?["wait_timeout"] = json!("15s");
        Ok(())
    }

    /// What the routes ask of `ext_proc`, as `grpc_initial_metadata`: an option is set, or added.
    pub fn set_process_option(&mut self, option: &str, value: &str) -> Result<(), Error> {
        let file = self.name.clone();
        let metadata = self
            .at(&format!("{CONNECTION_MANAGER}/route_config/virtual_hosts/0/typed_per_filter_config/{EXT_PROC}/overrides/grpc_initial_metadata"))?
            .as_array_mut()
            .ok_or_else(|| Error::Config {
                file,
                reason: "grpc_initial_metadata is no list".to_owned(),
            })?;
        metadata.retain(|entry| entry["key"] != option);
        metadata.push(json!({ "key": option, "value": value }));
        Ok(())
    }

    /// Lets `ext_proc` wait for as long as any test may take, so that a busy disk fails none.
    pub fn make_process_patient(&mut self) -> Result<(), Error> {
        self.http_filter(EXT_PROC)?["typed_config"]["message_timeout"] = json!("20s");
        self.set_process_option("wait_timeout", "15s")
    }

    /// Both of these, as far as the filters are there.
    pub fn make_patient(&mut self) -> Result<(), Error> {
        if self.http_filter_position(EXT_AUTHZ).is_some() {
            self.make_check_patient()?;
        }
        if self.http_filter_position(EXT_PROC).is_some() {
            self.make_process_patient()?;
        }
        Ok(())
    }

    /// The connection manager of the first listener.
    pub fn connection_manager(&mut self) -> Result<&mut Value, Error> {
        self.at(CONNECTION_MANAGER)
    }

    /// Loads another module as the filter.
    pub fn set_filter_file(&mut self, wasm: &Path) -> Result<(), Error> {
        self.plugin()?["vm_config"]["code"]["local"]["filename"] = json!(wasm);
        Ok(())
    }

    fn http_filter_position(&self, name: &str) -> Option<usize> {
        self.tree
            .pointer(HTTP_FILTERS)?
            .as_array()?
            .iter()
            .position(|filter| filter["name"] == name)
    }

    fn address_at(&self, pointer: &str) -> Result<SocketAddr, Error> {
        let error = |reason: String| Error::Config {
            file: self.name.clone(),
            reason,
        };
        let socket = self
            .tree
            .pointer(&format!("{pointer}/socket_address"))
            .ok_or_else(|| error(format!("it has no {pointer}/socket_address")))?;
        format!(
            "{}:{}",
            socket["address"].as_str().unwrap_or_default(),
            socket["port_value"]
        )
        .parse()
        .map_err(|_| error(format!("{pointer} is no address with a port")))
    }
}

const EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";
/// Name of Envoy's filter for Process.
pub const EXT_PROC: &str = "envoy.filters.http.ext_proc";
const CONNECTION_MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const HTTP_FILTERS: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";

fn set_address(slot: &mut Value, address: SocketAddr) {
    *slot = json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } });
}
