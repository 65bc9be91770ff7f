//! Azure Key Vault: a TLS server of the tests with real keys, which Microsoft's own client passes against too.
