//! Regions against each other: real logs over a storage that knows what a crash may do.

mod flights;
mod http;
mod mirrors;
mod restoring;
mod rig;
mod sending;
mod simulation;
mod starting;
mod wire;
