//! Both sides of `knhk.v1.Gate` in the tests' hands: a service that sends what a test wants, and workers by the thousand.

mod server;

pub use server::{FakeGate, snapshot};
