//! Envoy's counters and gauges.

use std::collections::BTreeMap;

use crate::Error;

/// A reading of `/stats`. Histograms are left out.
#[derive(Debug, Clone)]
pub struct Stats(BTreeMap<String, u64>);

impl Stats {
    /// Reads the text form: one `name: value` a line.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let stats: BTreeMap<String, u64> = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect();
        if stats.is_empty() {
            return Err(Error::Contract {
                what: "Envoy's /stats".to_owned(),
                reason: "no counter in it".to_owned(),
            });
        }
        Ok(Self(stats))
    }

    /// One value, 0 if Envoy does not show it (it leaves out what was never touched).
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// One value of the filter's own, by the name the filter defines.
    pub fn filter(&self, name: &str) -> u64 {
        self.get(&format!("wasmcustom.{name}"))
    }

    /// What concerns the filter, for messages.
    pub fn knhk(&self) -> String {
        let lines: Vec<String> = self
            .0
            .iter()
            .filter(|(name, _)| name.starts_with("wasm") || name.starts_with("extension_config_discovery."))
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        lines.join(", ")
    }
}
