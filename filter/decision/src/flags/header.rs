//! What the upstream is told of flags: the value of `x-knhk-flags`.
//!
//! `flag=variant` for each, with a comma between them. In keys and variants every byte of their UTF-8 that is neither letter,
//! digit nor one of `-`, `.`, `_` and `~` is `%` and two upper-case hexadecimal digits (RFC 3986, 2.1).

/// The header's value, `None` where no flag is told.
pub(crate) fn value<'a>(told: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let mut value = String::new();
    for (flag, variant) in told {
        if !value.is_empty() {
            value.push(',');
        }
        push(&mut value, flag);
        value.push('=');
        push(&mut value, variant);
    }
    (!value.is_empty()).then_some(value)
}

/// How many bytes a flag takes at most, with what stands between it and others.
pub(crate) fn longest<'a>(flag: &str, variants: impl Iterator<Item = &'a str>) -> usize {
    encoded(flag) + variants.map(encoded).max().unwrap_or_default() + 2
}

fn push(value: &mut String, text: &str) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or_default();
    for byte in text.bytes() {
        if is_plain(byte) {
            value.push(char::from(byte));
        } else {
            value.push('%');
            value.push(digit(byte >> 4));
            value.push(digit(byte & 15));
        }
    }
}

fn encoded(text: &str) -> usize {
    text.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum()
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_misread_is_encoded() {
        let told = [("new-checkout", "on"), ("a=b, c", "gr\u{fc}n%\r\n")];
        let header = value(told.into_iter()).expect("a header");
        assert_eq!(header, "new-checkout=on,a%3Db%2C%20c=gr%C3%BCn%25%0D%0A");
        let bound: usize = told
            .map(|(flag, variant)| longest(flag, [variant, "x"].into_iter()))
            .iter()
            .sum();
        assert_eq!(bound, header.len() + 1);
        assert_eq!(value([].into_iter()), None);
    }
}
