//! Regions against each other: real logs over a storage that knows what a crash may do.

mod mirrors;
mod rig;
mod simulation;
