//! The harness that starts real peers, the end-to-end tests, the demo and the benchmarks.
