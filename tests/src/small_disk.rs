//! A real file system that can be full.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peer::NotRun;

/// Its size. Everything that fills it is bounded by this.
const MIB: usize = 32;

/// A mounted tmpfs. It is unmounted on drop, also while it is in use.
#[derive(Debug)]
pub struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one. Needs the right to mount.
    pub fn mount() -> Result<Self, NotRun> {
        let directory = tempfile::Builder::new()
            .prefix("knhk-disk-")
            .tempdir()
            .map_err(NotRun::because("a small disk"))?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={MIB}m"), "knhk-test"])
            .arg(directory.path())
            .output()
            .map_err(NotRun::because("mount"))?;
        if output.status.success() {
            return Ok(Self { directory });
        }
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(NotRun::new("mount of a tmpfs", format!("{why}: run as root")))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> std::io::Result<()> {
        let mut file = File::create(self.filler())?;
        let page = [0; 4096];
        for _ in 0..=MIB * 1024 * 1024 / page.len() {
            match file.write_all(&page) {
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                written => written?,
            }
        }
        Err(std::io::Error::other("it takes more than it has room for"))
    }

    /// Gives the room back.
    pub fn free(&self) -> std::io::Result<()> {
        std::fs::remove_file(self.filler())
    }

    fn filler(&self) -> PathBuf {
        self.directory.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What still uses it keeps it until it ends; the directory is free at once.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.directory.path())
            .status();
    }
}
