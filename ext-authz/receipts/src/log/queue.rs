use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::error::LogError;
use super::{MAX_GROUP_BYTES, MAX_WAITING_BYTES};
use crate::entry::Prepared;
use crate::segment::record_len;

/// The answer to an append: which entries it got.
pub(crate) type Answer = Result<Range<u64>, LogError>;

/// One append that waits to be written.
pub(crate) struct Request {
    pub(crate) entries: Vec<Prepared>,
    pub(crate) answer: oneshot::Sender<Answer>,
}

impl Request {
    fn bytes(&self) -> usize {
        self.entries
            .iter()
            .map(|entry| record_len(entry.payload.len()))
            .sum()
    }
}

/// Appends on their way to the writer, bounded by their bytes.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    /// Of those in `requests`, and of those that the writer has in hand.
    bytes: usize,
    in_hand: usize,
    closed: bool,
}

impl Queue {
    /// Puts a request behind the others.
    pub(crate) fn push(&self, request: Request) -> Result<(), LogError> {
        let bytes = request.bytes();
        let mut state = self.lock();
        if state.closed {
            return Err(LogError::Closed);
        }
        if state.bytes + bytes > MAX_WAITING_BYTES {
            return Err(LogError::Full);
        }
        state.bytes += bytes;
        state.requests.push_back(request);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for requests, and takes as many as make a group; the ones taken before are done. `None` when the queue is
    /// closed and empty.
    pub(crate) fn take(&self) -> Option<Vec<Request>> {
        let mut state = self.lock();
        state.bytes -= std::mem::take(&mut state.in_hand);
        while state.requests.is_empty() {
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut taken = Vec::new();
        while let Some(request) = state.requests.front() {
            let bytes = request.bytes();
            if !taken.is_empty() && state.in_hand + bytes > MAX_GROUP_BYTES {
                break;
            }
            state.in_hand += bytes;
            taken.extend(state.requests.pop_front());
        }
        Some(taken)
    }

    /// Lets no more requests in.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Lets no more requests in, and drops those that wait: there is no one to write them.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.requests.clear();
    }

    /// Bytes that wait or are being written.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(payload_bytes: usize) -> (Request, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        (
            Request {
                entries: vec![Prepared::new([0; 32], vec![0; payload_bytes])],
                answer,
            },
            receiver,
        )
    }

    #[test]
    fn waiting_bytes_are_bounded_until_they_are_written() {
        let queue = Queue::default();
        let large = MAX_GROUP_BYTES - record_len(0);
        let fits = MAX_WAITING_BYTES / MAX_GROUP_BYTES;
        for _ in 0..fits {
            queue.push(request(large).0).expect("there is room");
        }
        assert_eq!(
            queue.push(request(1).0).expect_err("full").label(),
            "resource_exhausted"
        );
        assert_eq!(queue.take().expect("a group").len(), 1);
        assert_eq!(
            queue.push(request(1).0).expect_err("being written").label(),
            "resource_exhausted"
        );
        assert_eq!(queue.take().expect("the next group, the first is done").len(), 1);
        queue.push(request(1).0).expect("there is room again");
    }

    #[test]
    fn whoever_waits_in_an_abandoned_queue_is_told() {
        let queue = Queue::default();
        let (request, mut answer) = request(1);
        queue.push(request).expect("there is room");
        queue.abandon();
        assert_eq!(
            answer.try_recv().expect_err("no answer"),
            oneshot::error::TryRecvError::Closed
        );
        assert!(queue.take().is_none());
    }

    #[test]
    fn a_group_takes_what_waits_up_to_its_bound() {
        let queue = Queue::default();
        let half = MAX_GROUP_BYTES / 2 - record_len(0);
        for bytes in [1, half, half, MAX_GROUP_BYTES, 2, 3] {
            queue.push(request(bytes).0).expect("there is room");
        }
        let sizes: Vec<_> = std::iter::from_fn(|| {
            queue.close();
            queue.take().map(|group| group.len())
        })
        .collect();
        assert_eq!(
            sizes,
            [2, 1, 1, 2],
            "one that is larger than the bound goes alone"
        );
        assert_eq!(queue.bytes(), 0);
        assert_eq!(queue.push(request(1).0).expect_err("closed").label(), "closed");
    }
}
