//! The KNHK service and its command line.
fn main() {}
