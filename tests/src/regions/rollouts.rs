//! Rollouts that regions share.

use super::{HEALED, Regions};
use crate::Error;
use crate::mesh::{NAME, RolloutFile};
use crate::rollout::Status;

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
