//! Files that a user names: read whole, and never more of them than they may have.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Failure;

/// A file of at most `most` bytes; `-` is standard input.
pub(super) fn bytes(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let unreadable = |error| Failure::new(format!("{}: cannot be read: {error}", path.display()));
    let mut bytes = Vec::new();
    open(path)?
        .take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > most {
        let message = format!("{}: too large; it may have {most} bytes", path.display());
        return Err(Failure::new(message));
    }
    Ok(bytes)
}

/// A text of at most `most` bytes; `-` is standard input.
pub(super) fn text(path: &Path, most: usize) -> Result<String, Failure> {
    String::from_utf8(bytes(path, most)?)
        .map_err(|error| Failure::new(format!("{}: is not text: {error}", path.display())))
}

/// A file to read from; `-` is standard input.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(Failure::new(format!(
            "{}: cannot be read: {error}",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound_and_no_further() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "four").expect("written");
        assert_eq!(text(&path, 4).expect("fits"), "four");
        let refused = text(&path, 3).expect_err("too large").to_string();
        assert!(refused.contains("3 bytes"), "{refused}");
        assert!(bytes(Path::new("/dev/zero"), 1024).is_err());
        std::fs::write(&path, [255]).expect("written");
        assert!(
            text(&path, 4)
                .expect_err("not text")
                .to_string()
                .contains("not text")
        );
        assert!(text(directory.path(), 4).is_err());
    }
}
