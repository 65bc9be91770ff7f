//! Every bound on a flag file, a context and an evaluation. A refusal names the bound it met.
//!
//! They are wide enough for the flags of a mesh, and narrow enough that no file and no request makes a filter slow or
//! large.

/// Bytes of a flag file.
pub const MAX_FLAGS_BYTES: usize = 1024 * 1024;
/// Bytes of a context that is given as JSON.
pub const MAX_CONTEXT_BYTES: usize = 64 * 1024;
/// How deep lists and objects may lie in one another, in a flag file and in a context. An operation is two levels: its
/// object, and the list of what it works on.
pub const MAX_DEPTH: usize = 64;
/// Values in one document: each null, boolean, number, text, list and object counts.
pub const MAX_VALUES: usize = 65_536;
/// Flags in one file.
pub const MAX_FLAGS: usize = 1024;
/// Bytes of a flag's key.
pub const MAX_FLAG_KEY_BYTES: usize = 256;
/// Variants of one flag.
pub const MAX_VARIANTS: usize = 64;
/// Bytes of a variant's name.
pub const MAX_VARIANT_NAME_BYTES: usize = 256;
/// Shared rules in `$evaluators`.
pub const MAX_EVALUATORS: usize = 256;
/// Entries of `metadata`, in the file and in each flag.
pub const MAX_METADATA: usize = 64;
/// Operations and values that one rule may hold. A `$ref` counts as one, and its evaluator is bounded by itself.
pub const MAX_RULE_VALUES: usize = 4096;

/// What one evaluation may cost, in units: one for each operation that is run, each value that is looked at and each
/// [`BYTES_PER_UNIT`] bytes of text that are read or made. What would cost more ends with `GENERAL`.
///
/// Without loops a rule costs at most its own size and that of what it reads. The bound is for `map`, `filter`,
/// `reduce`, `all`, `some` and `none` inside one another, which may cost their list's length to the power of their depth.
pub const MAX_COST: usize = 10_000;
/// Bytes of text that cost as much as one operation.
pub const BYTES_PER_UNIT: usize = 32;
/// What a number with a fraction costs more than others: putting it into decimal digits takes that long.
pub const FLOAT_COST: usize = 12;
/// What a version costs more than the text that it is.
pub const VERSION_COST: usize = 4;
/// How deep lists that a rule makes may lie in one another: `reduce` can put each accumulator into the next.
pub const MAX_MADE_DEPTH: usize = 64;
