//! Rollouts and flags that regions share.

use serde_json::Value;

use super::{HEALED, Regions};
use crate::mesh::{NAME, RolloutFile};
use crate::rollout::Status;
use crate::{Error, wait};

impl Regions {
    /// An operator applies a rollout in a region.
    pub async fn apply(&self, at: usize, rollout: &RolloutFile) -> Result<(), Error> {
        let service = self.at(at);
        let file = rollout.write(service)?;
        let command = [
            "rollout".as_ref(),
            "apply".as_ref(),
            "-f".as_ref(),
            file.as_os_str(),
        ];
        service.cli()?.json(&command).await.map(drop)
    }

    /// An operator applies flag definitions in a region.
    pub async fn apply_flags(&self, at: usize, definitions: &Value) -> Result<(), Error> {
        let service = self.at(at);
        let file = service.directory().join("flags.json");
        std::fs::write(&file, definitions.to_string()).map_err(Error::io("flags.json"))?;
        let command = ["flag".as_ref(), "apply".as_ref(), "-f".as_ref(), file.as_os_str()];
        service.cli()?.json(&command).await.map(drop)
    }

    /// Waits until these flag definitions are in force in a region.
    pub async fn until_flags(&self, at: usize, definitions: &Value) -> Result<(), Error> {
        wait::until("flag definitions", HEALED, || async {
            match self.at(at).reads("/v1/flags").await {
                Ok(flags) if flags == *definitions => Ok(()),
                Ok(flags) => Err(flags.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// Waits until the rollout is so in a region.
    pub async fn until_rollout(
        &self,
        at: usize,
        what: &str,
        holds: impl Fn(&Status) -> bool,
    ) -> Result<Status, Error> {
        self.at(at).rollouts().until(NAME, what, HEALED, holds).await
    }
}
