//! Both sides of `knhk.v1.Gate` in the tests' hands: a service that sends what a test wants, and workers by the thousand.

mod server;
mod worker;

pub use server::{FakeGate, snapshot};
pub use worker::{Worker, connect, connect_as, connector};
