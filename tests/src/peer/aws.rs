//! AWS KMS: moto, whose faults are corrected, behind a proxy that injects others.
