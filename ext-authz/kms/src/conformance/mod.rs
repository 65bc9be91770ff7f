//! What every provider must do, as two suites: [`happy`] with a peer that works, [`faults`] with one that does not.
//! A check panics with what was wrong.
#![allow(clippy::missing_panics_doc)]

mod faults;
mod happy;
mod openssl;

pub use faults::{FaultyPeer, faults};
pub use happy::{happy, signs_with_the_version_asked_for};
