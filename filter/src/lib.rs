//! The proxy-wasm filter: a thin shell over knhk-decision.
