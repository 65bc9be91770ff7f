//! Receipts: payloads, the transparency log, checkpoints and their verification.
