//! `serve --new-log NAME`: a region starts over on purpose, under another name, so that no receipt's ID is given twice.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knhk_receipts::storage::Storage;
use knhk_receipts::{AtRest, LogError, LogOptions};
use thiserror::Error;

/// Where logs are kept that are gone on with no longer, below `data`.
const SET_ASIDE_DIR: &str = "set-aside";

/// What belongs to a log and to no other one, below `data`: its files, its unfinished restoration, the shortcut of what it says,
/// the rollouts' older history, and what peers have acknowledged of it.
const PARTS: [&str; 5] = ["log", "mirror", "state.json", "history", "regions/acks"];

/// Why no new log is begun. What is there is as it was, as far as it is not said otherwise.
#[derive(Debug, Error)]
pub(crate) enum NewLogError {
    #[error(
        "--new-log {0}: that is the name of the log in `data`; give another one, since its receipts' IDs would be given twice"
    )]
    SameName(String),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(
        "{path}: the log cannot be set aside: {source}; run it again, what is set aside already stays so"
    )]
    Io { path: PathBuf, source: io::Error },
}

/// Sets the log in `data` aside, where there is one, for the log of `region` to begin. The caller has the directory's lock.
pub(super) fn set_aside(data: &Path, storage: Arc<dyn Storage>, region: &str) -> Result<(), NewLogError> {
    let there = AtRest::find(storage)?;
    let origin = there
        .as_ref()
        .and_then(AtRest::root)
        .map(|root| root.checkpoint.origin().to_owned());
    if origin.as_deref() == Some(LogOptions::new(region).origin.as_str()) {
        return Err(NewLogError::SameName(region.to_owned()));
    }
    let place = free_place(data);
    for part in PARTS {
        let (from, to) = (data.join(part), place.join(part));
        let moved = || match fs::metadata(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                fs::create_dir_all(to.parent().unwrap_or(&place))?;
                fs::rename(&from, &to)
            }
        };
        moved().map_err(|source| NewLogError::Io {
            path: from.clone(),
            source,
        })?;
    }
    tracing::warn!(
        region,
        set_aside = %place.display(),
        "a new log begins; write its name as `region` into the configuration, and pin its key at the peers"
    );
    Ok(())
}

/// The first number that nothing is set aside under.
fn free_place(data: &Path) -> PathBuf {
    let all = data.join(SET_ASIDE_DIR);
    let mut number = 1_u64;
    loop {
        let place = all.join(number.to_string());
        if !place.exists() {
            return place;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use knhk_receipts::DiskStorage;

    use super::*;
    use crate::app::{App, Begin, Ground};
    use crate::config::Config;

    fn config(data: &Path, region: &str) -> Config {
        Config::parse(&format!("region: {region}\ndata: {}", data.display())).expect("valid")
    }

    /// A log with a signed checkpoint.
    async fn log_of(data: &Path, region: &str) {
        let app = App::open(&config(data, region)).await.expect("opens").app;
        app.log.clone().close().await.expect("signs");
    }

    #[tokio::test]
    async fn a_new_log_has_another_name_and_the_old_one_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path();
        log_of(data, "eu").await;
        let before = fs::read(data.join("log/root")).expect("signed");
        let same = Ground::lay(&config(data, "eu"), Begin::ANewLog)
            .await
            .err()
            .expect("refused");
        assert!(same.to_string().starts_with("--new-log eu: "), "{same}");
        let (ground, _) = Ground::lay(&config(data, "eu-b"), Begin::ANewLog)
            .await
            .expect("begins");
        let app = App::open_on(&config(data, "eu-b"), ground)
            .await
            .expect("opens")
            .app;
        assert_eq!(app.log.region(), "eu-b");
        assert_eq!(fs::read(data.join("set-aside/1/log/root")).expect("kept"), before);
    }

    #[test]
    fn where_nothing_is_there_nothing_is_set_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let storage = Arc::new(DiskStorage::open(directory.path()).expect("a directory"));
        set_aside(directory.path(), storage, "eu").expect("nothing to do");
        assert!(!directory.path().join(SET_ASIDE_DIR).exists());
    }
}
