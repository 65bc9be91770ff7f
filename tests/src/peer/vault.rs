//! Vault's own Transit engine.
