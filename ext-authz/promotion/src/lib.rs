//! Rollouts: the spec, the stages, the analysis and the rollback.
