//! What regions have on their disks, read by the simulation's judge, which shares nothing with the service.

use std::fs;
use std::path::{Path, PathBuf};

use super::checker::{Copies, Copy, Files, Promise, are_equal, is_kept, is_one_history};

/// A directory as the judge reads it.
struct Directory(PathBuf);

impl Files for Directory {
    fn names(&self, dir: &str) -> Result<Vec<String>, String> {
        let path = self.0.join(dir);
        let entries = fs::read_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let names = entries.map(|entry| entry.map(|it| it.file_name().to_string_lossy().into_owned()));
        names.collect::<Result<_, _>>().map_err(|error| error.to_string())
    }

    fn whole(&self, path: &str) -> Result<Vec<u8>, String> {
        fs::read(self.0.join(path)).map_err(|error| format!("{path}: {error}"))
    }
}

/// One region's log is one history on all disks (region and data directory each), and what a quorum was said to hold is on so many.
/// Once everything is mended the copies are equal, too.
pub(super) fn is_sound(
    region: &str,
    disks: &[(&str, PathBuf)],
    claimed: u64,
    quorum: usize,
    healed: bool,
) -> Result<(), String> {
    let copies = copies(region, disks)?;
    is_one_history(region, &copies)?;
    if healed {
        are_equal(region, &copies)?;
    }
    let longest = copies.values().max_by_key(|copy| copy.size());
    let Some(root) = longest.and_then(|copy| copy.root(claimed)) else {
        return Err(format!(
            "{claimed} entries of {region} were said to be held, and nobody has so many"
        ));
    };
    let region = region.to_owned();
    let promise = Promise {
        region,
        size: claimed,
        root,
    };
    is_kept(&promise, &copies, quorum)
}

fn copies(region: &str, disks: &[(&str, PathBuf)]) -> Result<Copies, String> {
    let copy = |(holder, data): &(&str, PathBuf)| {
        let directory = if *holder == region {
            data.clone()
        } else {
            data.join("mirrors").join(region)
        };
        let copy =
            Copy::read(&Directory(directory)).map_err(|error| format!("{holder} of {region}: {error}"))?;
        Ok(((*holder).to_owned(), copy))
    };
    disks.iter().map(copy).collect()
}

/// Removes everything of a region's data but the keys that are its key service's.
pub fn wipe(data: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        if entry.file_name() == "keys" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A copy of a region's data.
pub fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?, to);
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
