//! The floor of the benchmark: a wasm filter that does nothing.
