//! Signing keys behind one trait.
