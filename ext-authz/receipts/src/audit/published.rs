use super::source::{Content, EachEntry};
use crate::bundle::{self, split};
use crate::tree::TILE_WIDTH;

/// Takes a payload bundle apart as its bytes come, in any pieces. Holds one item at most.
pub struct BundleReader {
    path: String,
    next: u64,
    end: u64,
    /// Where in the bundle `buffer` begins.
    offset: u64,
    buffer: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// Something was wrong, and was told.
    Failed,
}

impl BundleReader {
    /// For the first `width` entries of a bundle.
    pub fn new(bundle: u64, width: u64) -> Self {
        let first = bundle * TILE_WIDTH;
        Self {
            path: bundle::path(bundle, width),
            next: first,
            end: first + width,
            offset: 0,
            buffer: Vec::new(),
            state: State::Reading,
        }
    }

    /// The path of the bundle.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes the next bytes, and gives each entry that is whole to `each`.
    pub fn push(&mut self, bytes: &[u8], each: &mut EachEntry<'_>) {
        if self.state == State::Failed {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        let mut at = 0;
        while self.next < self.end {
            match split(&self.buffer[at..]) {
                Ok(Some((item, taken))) => {
                    each(
                        self.next,
                        Ok(Content {
                            salt: item.salt,
                            payload: item.payload,
                            commitment: None,
                        }),
                    );
                    at += taken;
                    self.next += 1;
                }
                Ok(None) => break,
                Err(error) => {
                    let place = self.offset + at as u64;
                    return self.fail(format!("at byte {place}: {error}"), each);
                }
            }
        }
        self.offset += at as u64;
        self.buffer.drain(..at);
        if self.next == self.end && !self.buffer.is_empty() {
            self.next -= 1;
            self.fail(
                format!("it is the last one, and at byte {} are more bytes", self.offset),
                each,
            );
        }
    }

    /// No more bytes come.
    pub fn finish(&mut self, each: &mut EachEntry<'_>) {
        if self.state == State::Reading && self.next < self.end {
            let end = self.offset + self.buffer.len() as u64;
            self.fail(format!("the bundle ends at byte {end}"), each);
        }
    }

    fn fail(&mut self, reason: String, each: &mut EachEntry<'_>) {
        self.state = State::Failed;
        each(self.next, Err(reason));
    }
}
