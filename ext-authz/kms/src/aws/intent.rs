//! The file that says which rotation is under way. It is there from before the first request that changes something at AWS until
//! after the last, and is written whole and durable or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{KeyVersion, KmsError};

/// The file's name in `AwsConfig::state`.
pub const INTENT_FILE: &str = "aws-rotation.json";

/// The largest file that is read, in bytes. One that KNHK wrote has about 300.
const MAX_BYTES: u64 = 16 * 1024;

/// A rotation that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Intent {
    format: Format,
    /// Names this rotation in the new key's tag: 32 hexadecimal digits.
    pub(super) rotation: String,
    /// `alias/NAME`.
    pub(super) alias: String,
    /// The ARN of the key that the alias led to.
    previous: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Format {
    #[serde(rename = "knhk-aws-rotation/v1")]
    V1,
}

impl Intent {
    pub(super) fn new(rotation: String, alias: &str, previous: &KeyVersion) -> Self {
        Self {
            format: Format::V1,
            rotation,
            alias: alias.to_owned(),
            previous: previous.to_string(),
        }
    }

    pub(super) fn previous(&self) -> Result<KeyVersion, KmsError> {
        KeyVersion::new(self.previous.clone())
    }
}

/// Where the intent is kept.
#[derive(Debug)]
pub(super) struct IntentFile {
    dir: PathBuf,
    path: PathBuf,
}

impl IntentFile {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            path: dir.join(INTENT_FILE),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The rotation that is under way, if there is one.
    pub(super) fn read(&self) -> Result<Option<Intent>, KmsError> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io_error("open", &self.path))?,
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(io_error("read", &self.path))?;
        let damaged = |reason: String| {
            let source = io::Error::new(io::ErrorKind::InvalidData, reason);
            io_error("read the rotation that is under way from", &self.path)(source)
        };
        if text.len() as u64 > MAX_BYTES {
            return Err(damaged(format!("it has more than {MAX_BYTES} bytes")));
        }
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| damaged(error.to_string()))
    }

    /// Replaces the file. When this returns, a crash leaves the new one.
    pub(super) fn write(&self, intent: &Intent) -> Result<(), KmsError> {
        self.make_dir()?;
        let unfinished = self.path.with_extension("json.new");
        let text = serde_json::to_vec_pretty(intent).map_err(|error| {
            io_error("write", &unfinished)(io::Error::new(io::ErrorKind::InvalidData, error))
        })?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(io_error("create", &unfinished))?;
        file.write_all(&text).map_err(io_error("write", &unfinished))?;
        file.sync_all().map_err(io_error("sync", &unfinished))?;
        fs::rename(&unfinished, &self.path).map_err(io_error("create", &self.path))?;
        sync(&self.dir)
    }

    /// Says that the rotation is over. When this returns, a crash does not bring the file back.
    pub(super) fn remove(&self) -> Result<(), KmsError> {
        fs::remove_file(&self.path).map_err(io_error("remove", &self.path))?;
        sync(&self.dir)
    }

    fn make_dir(&self) -> Result<(), KmsError> {
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Ok(()) => sync(match self.dir.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(io_error("make the directory", &self.dir)(error)),
        }
    }
}

fn sync(dir: &Path) -> Result<(), KmsError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", dir))
}

fn io_error<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> KmsError + 'p {
    move |source| KmsError::Io {
        field: "kms.aws",
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(rotation: &str) -> Intent {
        let arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        Intent::new(
            rotation.to_owned(),
            "alias/knhk",
            &KeyVersion::new(arn).expect("an ARN"),
        )
    }

    #[test]
    fn it_is_read_as_it_was_written_and_gone_when_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = IntentFile::new(&dir.path().join("state"));
        assert_eq!(file.read().expect("no file"), None);
        for rotation in ["1", "2"] {
            file.write(&intent(rotation)).expect("writes");
            assert_eq!(file.read().expect("whole"), Some(intent(rotation)));
        }
        file.remove().expect("removes");
        assert_eq!(file.read().expect("no file"), None);
    }

    #[test]
    fn a_crash_while_it_is_written_leaves_no_rotation_under_way() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = IntentFile::new(dir.path());
        let unfinished = dir.path().join("aws-rotation.json.new");
        let text = serde_json::to_vec_pretty(&intent("1")).expect("JSON");
        for torn in 0..text.len() {
            fs::write(&unfinished, &text[..torn]).expect("writes");
            assert_eq!(file.read().expect("none"), None);
        }
        file.write(&intent("2")).expect("writes over what is left");
        assert_eq!(file.read().expect("whole"), Some(intent("2")));
    }

    #[test]
    fn a_file_that_knhk_did_not_write_is_refused_and_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = IntentFile::new(dir.path());
        let good = serde_json::to_string(&intent("1")).expect("JSON");
        for bad in [
            String::new(),
            good.replace("v1", "v2"),
            good.replace("\"alias\"", "\"aliases\""),
            good.replace('{', "{\"more\":1,"),
            " ".repeat(17_000),
        ] {
            fs::write(file.path(), &bad).expect("writes");
            let error = file.read().expect_err("refused");
            assert_eq!(error.label(), "io");
            assert!(error.to_string().contains(INTENT_FILE), "{error}");
        }
    }
}
