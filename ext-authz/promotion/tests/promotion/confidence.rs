//! What a count of random runs says about the chance behind it: the exact interval of Clopper and Pearson (1934).

/// The chance that is exceeded, in view of `hits` of `runs`, with a chance of at most `level`.
pub(crate) fn at_most(hits: u32, runs: u32, level: f64) -> f64 {
    if hits >= runs {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while high - low > 1e-7 {
        let middle = f64::midpoint(low, high);
        if chance_of_at_most(hits, runs, middle) > level {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The chance that is not reached, in view of `hits` of `runs`, with a chance of at most `level`.
pub(crate) fn at_least(hits: u32, runs: u32, level: f64) -> f64 {
    1.0 - at_most(runs - hits, runs, level)
}

/// Summed from the definition, in logarithms.
fn chance_of_at_most(hits: u32, runs: u32, p: f64) -> f64 {
    let mut term = f64::from(runs) * (-p).ln_1p();
    let mut sum = term.exp();
    for hit in 0..hits {
        term += (f64::from(runs - hit) / f64::from(hit + 1)).ln() + (p / (1.0 - p)).ln();
        sum += term.exp();
    }
    sum.min(1.0)
}
