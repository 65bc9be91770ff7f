//! Audits of a log that has everything: several segments, tiles, keys, kept checkpoints.

mod damage;
mod fixture;
mod pins;
mod published;
mod still;
