//! Names of every metric and span, generated from the registry, and the set-up of logs.
