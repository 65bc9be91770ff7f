use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// How many entries at least `quorum` regions hold, by what each of them holds. 0 where there are fewer regions.
pub fn quorum_of(mut held: Vec<u64>, quorum: usize) -> u64 {
    held.sort_unstable_by(|a, b| b.cmp(a));
    quorum
        .checked_sub(1)
        .and_then(|at| held.get(at))
        .copied()
        .unwrap_or(0)
}

/// What regions hold of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many regions have to hold an entry.
    pub quorum: usize,
    /// So many entries a quorum holds, or held when that was told.
    pub committed: u64,
    /// Each region, the log's own first.
    pub holders: Vec<Holder>,
}

/// What a region holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The region.
    pub region: String,
    /// How many entries.
    pub size: u64,
    /// Why not more, where something failed.
    pub why_not: Option<String>,
}

/// A quorum does not hold an entry yet. The entry is durable here, and is sent until it does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct QuorumError {
    /// The entry.
    pub index: u64,
    /// How many regions have to hold it.
    pub wanted: usize,
    /// Those that do.
    pub got: Vec<String>,
    /// Those that do not, each with the reason.
    pub missing: Vec<(String, String)>,
}

impl fmt::Display for QuorumError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, wanted, got) = (self.index, self.wanted, self.got.len());
        write!(f, "quorum: entry {index} is held by {got} of {wanted} regions")?;
        if got > 0 {
            write!(f, " ({})", self.got.join(", "))?;
        }
        for (region, why) in &self.missing {
            write!(f, "; {region}: {why}")?;
        }
        write!(
            f,
            "; it is durable here and commits by itself, see `knhk region status`"
        )
    }
}

impl QuorumError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        "quorum_not_reached"
    }
}

impl Progress {
    /// Whether a quorum holds the entry, and if not, who does and why the others do not.
    pub fn holds(&self, index: u64) -> Result<(), QuorumError> {
        if index < self.committed {
            return Ok(());
        }
        let (got, missing): (Vec<_>, Vec<_>) = self.holders.iter().partition(|it| it.size > index);
        let why = |it: &Holder| {
            it.why_not
                .clone()
                .unwrap_or_else(|| "not acknowledged yet".to_owned())
        };
        Err(QuorumError {
            index,
            wanted: self.quorum,
            got: got.into_iter().map(|it| it.region.clone()).collect(),
            missing: missing
                .into_iter()
                .map(|it| (it.region.clone(), why(it)))
                .collect(),
        })
    }

    /// Waits until a quorum holds the entry. `until` ends the wait, with what is known then: a timer, as a rule.
    pub async fn wait(
        mut told: watch::Receiver<Arc<Self>>,
        index: u64,
        until: impl Future<Output = ()>,
    ) -> Result<(), QuorumError> {
        let reached = async {
            let found = told.wait_for(|progress| index < progress.committed).await;
            found.map(|_| ())
        };
        tokio::select! {
            biased;
            // An error: nobody tells any more.
            reached = reached => if reached.is_ok() { return Ok(()) },
            () = until => {}
        }
        let last = Arc::clone(&told.borrow());
        last.holds(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn progress(committed: u64) -> Arc<Progress> {
        let holder = |region: &str, size, why: Option<&str>| Holder {
            region: region.to_owned(),
            size,
            why_not: why.map(str::to_owned),
        };
        Arc::new(Progress {
            quorum: 2,
            committed,
            holders: vec![
                holder("us", 9, None),
                holder("eu", committed, Some("connection refused")),
                holder("ap", 0, None),
            ],
        })
    }

    #[tokio::test]
    async fn who_waits_is_answered_when_a_quorum_holds_the_entry() {
        let (tell, told) = watch::channel(progress(3));
        Progress::wait(told.clone(), 2, std::future::pending())
            .await
            .expect("at once");
        let waiting = Progress::wait(told.clone(), 7, std::future::pending());
        let telling = async {
            tell.send_replace(progress(7));
            tokio::task::yield_now().await;
            tell.send_replace(progress(8));
        };
        let (reached, ()) = tokio::join!(waiting, telling);
        reached.expect("reached");
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_told_the_numbers() {
        let (tell, told) = watch::channel(progress(3));
        let error = Progress::wait(told.clone(), 5, std::future::ready(()))
            .await
            .expect_err("not reached");
        assert_eq!(
            error.to_string(),
            "quorum: entry 5 is held by 1 of 2 regions (us); eu: connection refused; ap: not acknowledged yet; it is durable here and commits by itself, see `knhk region status`"
        );
        drop(tell);
        Progress::wait(told, 5, std::future::pending())
            .await
            .expect_err("nobody tells any more");
    }

    proptest! {
        #[test]
        fn a_quorum_holds_what_so_many_regions_hold(held in prop::collection::vec(0..20_u64, 1..6), quorum in 1..6_usize) {
            let size = quorum_of(held.clone(), quorum);
            let holders = |size: u64| held.iter().filter(|it| **it >= size).count();
            prop_assert!(size == 0 || holders(size) >= quorum);
            prop_assert!(holders(size + 1) < quorum);
        }
    }
}
