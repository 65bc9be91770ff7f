//! Products of very many factors, without overflow and without a logarithm.

/// 2^256, so scaling rounds nothing. Mantissas are kept within 1 / SCALE and SCALE: a square of one is still a double.
const SCALE: f64 = f64::from_bits((1_023 + 256) << 52);

/// A positive number: `mantissa` times 2^(256 `exponent`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Growth {
    mantissa: f64,
    exponent: i64,
}

impl Growth {
    const ONE: Self = Self {
        mantissa: 1.0,
        exponent: 0,
    };

    /// `factor` to the power of `times`, by squaring. `factor` lies within 2^-256 and 2^256.
    pub(crate) fn of(factor: f64, times: u64) -> Self {
        let mut square = Self {
            mantissa: factor,
            exponent: 0,
        };
        let mut left = times;
        let mut product = Self::ONE;
        while left > 0 {
            if left % 2 == 1 {
                product = product.times(square);
            }
            left /= 2;
            if left > 0 {
                square = square.times(square);
            }
        }
        product
    }

    /// Both together.
    pub(crate) fn times(self, other: Self) -> Self {
        let mantissa = self.mantissa * other.mantissa;
        let exponent = self.exponent.saturating_add(other.exponent);
        if mantissa > SCALE {
            Self {
                mantissa: mantissa / SCALE,
                exponent: exponent.saturating_add(1),
            }
        } else if mantissa < 1.0 / SCALE {
            Self {
                mantissa: mantissa * SCALE,
                exponent: exponent.saturating_sub(1),
            }
        } else {
            Self { mantissa, exponent }
        }
    }

    /// What `capital`, at most `most`, has grown to; never more than `most`.
    pub(crate) fn applied_to(self, capital: f64, most: f64) -> f64 {
        let mut grown = capital * self.mantissa;
        let mut left = self.exponent;
        // More than the range of a double from any start: four scales lead from the smallest one past the largest.
        while left > 0 && grown > 0.0 && grown < most * SCALE {
            grown *= SCALE;
            left -= 1;
        }
        while left < 0 && grown > 0.0 {
            grown /= SCALE;
            left += 1;
        }
        grown.min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binomial::count;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_product_is_the_sum_of_logarithms(
            up in 1.0f64..1e9, down in 0.0625f64..1.0, ups in 0u64..100_000, downs in 0u64..1_000_000, capital in 1e-30f64..1e12
        ) {
            const MOST: f64 = 1e12;
            let grown = Growth::of(up, ups).times(Growth::of(down, downs)).applied_to(capital, MOST);
            let logarithm = capital.ln() + count(ups) * up.ln() + count(downs) * down.ln();
            if logarithm >= MOST.ln() + 1e-3 {
                prop_assert!(grown >= MOST);
            } else if logarithm > -600.0 {
                prop_assert!((grown.ln() - logarithm).abs() < 1e-6, "{grown} {logarithm}");
            } else {
                prop_assert!((0.0..1e-200).contains(&grown), "{grown}");
            }
        }
    }

    #[test]
    fn a_single_outcome_is_its_factor_exactly() {
        assert!((Growth::of(0.0625, 1).applied_to(8.0, 1e9) - 0.5).abs() < f64::EPSILON);
        assert!((Growth::of(3.0, 0).applied_to(8.0, 1e9) - 8.0).abs() < f64::EPSILON);
        assert!(Growth::of(2.0, u64::MAX).applied_to(0.0, 1e9) <= 0.0);
        assert!(Growth::of(0.5, u64::MAX).applied_to(1e9, 1e9) <= 0.0);
    }
}
