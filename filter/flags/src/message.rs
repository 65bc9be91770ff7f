//! How what others wrote stands in a message of one line: here, and in the refusals of whoever uses flags.

/// A value as it may stand in a message: on one line, and no longer than a line can bear.
pub fn quoted(value: &str) -> String {
    const SHOWN: usize = 80;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", value.get(..end).unwrap_or_default()),
        None => format!("{value:?}"),
    }
}

/// Words from elsewhere as they may stand in a message: on one line, and no longer than a line can bear.
pub fn one_line(words: &str) -> String {
    const SHOWN: usize = 400;
    words
        .chars()
        .take(SHOWN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
