//! `substr`: a part of a text, in code points.

use std::cmp::Ordering;

use super::number::Number;
use super::stop::Stop;

/// From `start`, where less than none counts from the end, `length` code points long; less than none leaves so many
/// away at the end.
pub(crate) fn substr(text: &str, start: Number, length: Option<Number>) -> Result<&str, Stop> {
    let count = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let start = first(count, start)?;
    let end = match length {
        None => count,
        Some(length) if length.is_nan() => start,
        Some(length) => match length.truncated().ok_or(Stop::InfinitePosition)? {
            length if length < 0 => count.saturating_add(length).max(start),
            length => start.saturating_add(length),
        },
    };
    let from = place(text, start);
    Ok(text.get(from..place(text, end).max(from)).unwrap_or_default())
}

fn first(count: i64, start: Number) -> Result<i64, Stop> {
    let from_the_end = start.compare(Number::ZERO).is_some_and(Ordering::is_lt);
    match start.truncated() {
        _ if start.is_nan() => Ok(0),
        // A start before the text is its start.
        None if from_the_end => Ok(0),
        None => Err(Stop::InfinitePosition),
        Some(start) if from_the_end => Ok(count.saturating_add(start).max(0)),
        Some(start) => Ok(start.min(count)),
    }
}

/// Where in the bytes a code point begins.
fn place(text: &str, index: i64) -> usize {
    usize::try_from(index)
        .ok()
        .and_then(|index| text.char_indices().nth(index))
        .map_or(text.len(), |(place, _)| place)
}
