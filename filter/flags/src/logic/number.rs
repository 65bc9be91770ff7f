//! Numbers as flagd's evaluator counts with them: Python's, of which booleans are two.
//!
//! Whole numbers and others are different until they meet. Python's whole numbers have no bound; here those that leave
//! 64 bits go on as floating-point numbers, as they are in Go and JavaScript from 2^53 on.

use std::cmp::Ordering;

use super::value::Value;

/// What a value is as a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    /// Counts as 0 or 1, and is still a boolean where it is only passed on.
    Bool(bool),
    Int(i64),
    Float(f64),
}

impl Number {
    pub(crate) const ZERO: Self = Self::Int(0);
    pub(crate) const ONE: Self = Self::Int(1);

    pub(crate) fn plus(self, other: Self) -> Self {
        whole(self, other, i64::checked_add).unwrap_or_else(|| Self::Float(self.float() + other.float()))
    }

    pub(crate) fn times(self, other: Self) -> Self {
        whole(self, other, i64::checked_mul).unwrap_or_else(|| Self::Float(self.float() * other.float()))
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        whole(self, other, i64::checked_sub).unwrap_or_else(|| Self::Float(self.float() - other.float()))
    }

    pub(crate) fn negated(self) -> Self {
        match self.int().map(i64::checked_neg) {
            Some(Some(int)) => Self::Int(int),
            _ => Self::Float(-self.float()),
        }
    }

    /// Never a whole number, even where it comes out even. `None` for a division by zero.
    pub(crate) fn over(self, other: Self) -> Option<Self> {
        (!other.is_zero()).then(|| Self::Float(self.float() / other.float()))
    }

    /// The remainder has the sign of the divisor. `None` for a division by zero.
    pub(crate) fn modulo(self, other: Self) -> Option<Self> {
        if other.is_zero() {
            return None;
        }
        let wholes = whole(self, other, |a, b| {
            let remainder = a.wrapping_rem(b);
            let against = remainder != 0 && (remainder < 0) != (b < 0);
            Some(if against { remainder + b } else { remainder })
        });
        Some(wholes.unwrap_or_else(|| {
            let (a, b) = (self.float(), other.float());
            let remainder = a % b;
            Self::Float(if remainder == 0.0 {
                0.0_f64.copysign(b)
            } else if (remainder < 0.0) == (b < 0.0) {
                remainder
            } else {
                remainder + b
            })
        }))
    }

    /// How two numbers stand to each other, exactly; `None` where one is not a number.
    pub(crate) fn compare(self, other: Self) -> Option<Ordering> {
        match (self.int(), other.int()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            (Some(a), None) => compare_mixed(a, other.float()),
            (None, Some(b)) => compare_mixed(b, self.float()).map(Ordering::reverse),
            (None, None) => self.float().partial_cmp(&other.float()),
        }
    }

    pub(crate) fn equals(self, other: Self) -> bool {
        self.compare(other) == Some(Ordering::Equal)
    }

    /// The number without its fraction, towards zero; what is beyond 64 bits as far as they go. `None` for infinities,
    /// and for what is not a number.
    pub(crate) fn truncated(self) -> Option<i64> {
        match self {
            Self::Bool(truth) => Some(i64::from(truth)),
            Self::Int(int) => Some(int),
            #[allow(
                clippy::cast_possible_truncation,
                reason = "the cast ends at the bounds of 64 bits"
            )]
            Self::Float(float) => float.is_finite().then_some(float as i64),
        }
    }

    pub(crate) fn is_nan(self) -> bool {
        matches!(self, Self::Float(float) if float.is_nan())
    }

    pub(crate) fn is_zero(self) -> bool {
        self.equals(Self::ZERO)
    }

    fn int(self) -> Option<i64> {
        match self {
            Self::Bool(truth) => Some(i64::from(truth)),
            Self::Int(int) => Some(int),
            Self::Float(_) => None,
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "as documented: exact up to 2^53")]
    fn float(self) -> f64 {
        match self {
            Self::Bool(truth) => f64::from(u8::from(truth)),
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }
}

impl From<Number> for Value<'_> {
    fn from(number: Number) -> Self {
        match number {
            Number::Bool(truth) => Self::Bool(truth),
            Number::Int(int) => Self::Int(int),
            Number::Float(float) => Self::Float(float),
        }
    }
}

/// The result where both are whole and it fits.
fn whole(a: Number, b: Number, operation: impl FnOnce(i64, i64) -> Option<i64>) -> Option<Number> {
    operation(a.int()?, b.int()?).map(Number::Int)
}

/// A whole number against another, without rounding the whole one.
fn compare_mixed(int: i64, float: f64) -> Option<Ordering> {
    /// 2^63, the first number above all of 64 bits.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        return None;
    }
    if float >= BEYOND {
        return Some(Ordering::Less);
    }
    if float < -BEYOND {
        return Some(Ordering::Greater);
    }
    #[allow(clippy::cast_possible_truncation, reason = "within 64 bits, as just seen")]
    let truncated = float.trunc() as i64;
    let fraction = float.fract();
    Some(
        int.cmp(&truncated)
            .then_with(|| 0.0.partial_cmp(&fraction).unwrap_or(Ordering::Equal)),
    )
}

/// A text as a number, as Python's `float()` reads it with `inf` excluded; not a number where it is none.
///
/// Digits of other scripts are no digits here, though they are in Python.
pub(crate) fn number_in(text: &str) -> f64 {
    let text = text.trim_matches(is_blank);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.eq_ignore_ascii_case("inf") {
        return f64::NAN;
    }
    if !text.contains('_') {
        return text.parse().unwrap_or(f64::NAN);
    }
    if !has_underscores_between_digits(text.as_bytes()) {
        return f64::NAN;
    }
    text.replace('_', "").parse().unwrap_or(f64::NAN)
}

/// What Python takes for a blank: Unicode's white space, and the separators of ASCII.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn has_underscores_between_digits(text: &[u8]) -> bool {
    let is_digit = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_digit);
    text.iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'_')
        .all(|(at, _)| is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)))
}

/// A number as `cat` and others write it: C's `%.15g`.
pub(crate) fn short_form(float: f64) -> String {
    const DIGITS: usize = 15;
    if !float.is_finite() {
        return not_finite(float).to_owned();
    }
    let scientific = format!("{float:.*e}", DIGITS - 1);
    let (mantissa, exponent) = halves(&scientific);
    match usize::try_from(exponent) {
        Ok(places) if places < DIGITS => {
            without_zeros(&format!("{float:.*}", DIGITS - 1 - places)).to_owned()
        }
        Err(_) if exponent >= -4 => {
            let places = DIGITS - 1 + exponent.unsigned_abs() as usize;
            without_zeros(&format!("{float:.places$}")).to_owned()
        }
        _ => with_exponent(without_zeros(mantissa), exponent),
    }
}

/// A number as the name of a variant: the shortest form that reads back the same, as Python's `repr` writes it.
pub(crate) fn full_form(float: f64) -> String {
    if !float.is_finite() {
        return not_finite(float).to_owned();
    }
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = halves(&scientific);
    if !(-4..16).contains(&exponent) {
        return with_exponent(mantissa, exponent);
    }
    let plain = float.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

fn not_finite(float: f64) -> &'static str {
    if float.is_nan() {
        "nan"
    } else if float > 0.0 {
        "inf"
    } else {
        "-inf"
    }
}

fn halves(scientific: &str) -> (&str, i32) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    (mantissa, exponent.parse().unwrap_or_default())
}

fn without_zeros(number: &str) -> &str {
    if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

fn with_exponent(mantissa: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}
