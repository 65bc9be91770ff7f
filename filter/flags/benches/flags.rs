//! What an evaluation costs.
fn main() {}
