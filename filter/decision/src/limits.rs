//! Every bound on a policy. A refusal names the bound it met.
//!
//! They are wide enough for a mesh, and narrow enough that no document makes a filter slow or large: a policy is held
//! once per worker, in memory that never shrinks.

/// Bytes of a policy document: half of what a gRPC message may hold by default.
pub const MAX_POLICY_BYTES: usize = 2 * 1024 * 1024;
/// Rollouts in one policy.
pub const MAX_ROLLOUTS: usize = 1024;
/// Bytes of a rollout's name, a DNS label.
pub const MAX_NAME_BYTES: usize = 63;
/// Bytes of a version's name.
pub const MAX_VERSION_BYTES: usize = 128;
/// Bytes of a salt.
pub const MAX_SALT_BYTES: usize = 128;
/// Hosts of one rollout.
pub const MAX_HOSTS: usize = 64;
/// Bytes of a host without its port, as in DNS. A request's longer host is no name: only rollouts for any host match it.
pub const MAX_HOST_BYTES: usize = 253;
/// Bytes between two dots of a host, as in DNS.
pub const MAX_HOST_LABEL_BYTES: usize = 63;
/// Bytes of a path pattern.
pub const MAX_PATH_BYTES: usize = 1024;
/// Segments of a path pattern: what stands between its slashes.
pub const MAX_PATH_SEGMENTS: usize = 32;
/// Methods of one rollout.
pub const MAX_METHODS: usize = 16;
/// Bytes of a method.
pub const MAX_METHOD_BYTES: usize = 32;
/// Header conditions of one rollout.
pub const MAX_HEADERS: usize = 16;
/// Bytes of a header's name, in conditions and keys.
pub const MAX_HEADER_NAME_BYTES: usize = 128;
/// Bytes of a header condition's value.
pub const MAX_HEADER_VALUE_BYTES: usize = 1024;
/// Patterns for the caller's SPIFFE ID in one list.
pub const MAX_PEERS: usize = 64;
/// Flags that one rollout has in its match, and as many that it tells the upstream.
pub const MAX_FLAGS_OF_ROLLOUT: usize = 16;
/// Bytes of `x-knhk-flags`, whichever variants are chosen.
pub const MAX_FLAGS_HEADER_BYTES: usize = 4096;
/// What all flags of one decision may cost, in the units of [`knhk_flags::limits::MAX_COST`], with what follows for each.
/// A flag that would cost more gives no variant.
pub const MAX_FLAGS_COST: usize = 4 * knhk_flags::limits::MAX_COST;
/// What a flag costs before its rule is looked at. So one decision evaluates at most [`MAX_FLAGS_COST`] / this many.
pub const FLAG_COST: usize = 64;
/// What a header costs that a rule may read, besides its bytes.
pub const FLAG_HEADER_COST: usize = 4;
/// Headers that a rule reads one by one; where it names more, it gets all that there are.
pub const MAX_FLAG_HEADERS: usize = 16;
/// Keys in a rollout's chain.
pub const MAX_KEYS: usize = 8;
/// Bytes of a cookie's or a query parameter's name.
pub const MAX_KEY_NAME_BYTES: usize = 128;
/// Latency thresholds of one rollout.
pub const MAX_THRESHOLDS: usize = 8;
/// Outcomes of one rollout.
pub const MAX_OUTCOMES: usize = 8;
/// Good values of one outcome.
pub const MAX_GOOD_OUTCOMES: usize = 16;
/// The highest latency threshold: one hour, in microseconds.
pub const MAX_THRESHOLD_US: u64 = 3_600_000_000;
/// Rollouts for one host pattern and one path pattern, told apart by their other conditions. These are tried one by
/// one, so this bounds how long a decision takes.
pub const MAX_ROLLOUTS_PER_PLACE: usize = 64;
