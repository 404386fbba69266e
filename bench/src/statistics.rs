//! Medians with their spread, and ratios pair by pair.

/// Median with the least and the greatest value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    /// `None` for no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&least, &greatest) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, least, greatest })
    }
}

/// Ratios of values of the same round, for the rounds that have both.
pub(crate) fn ratios(over: &[Option<f64>], under: &[Option<f64>]) -> Vec<f64> {
    over.iter()
        .zip(under)
        .filter_map(|(over, under)| Some((*over)? / (*under)?))
        .filter(|ratio| ratio.is_finite())
        .collect()
}

/// Round by round, the better of several contestants.
pub(crate) fn best(contestants: &[Vec<Option<f64>>], better: Better) -> Vec<Option<f64>> {
    let rounds = contestants.iter().map(Vec::len).max().unwrap_or(0);
    (0..rounds)
        .map(|round| {
            let values = contestants.iter().filter_map(|values| *values.get(round)?);
            match better {
                Better::Higher => values.max_by(f64::total_cmp),
                Better::Lower => values.min_by(f64::total_cmp),
            }
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = |median, least, greatest| Some(Spread { median, least, greatest });
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), spread(2.5, 1.0, 4.0));
        assert_eq!(Spread::of([7.0]), spread(7.0, 7.0, 7.0));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_pair_within_a_round_and_skip_what_has_no_partner() {
        // The medians' ratio would be 1; pair by pair, the first is always twice the second.
        let over = [Some(2.0), Some(20.0), None, Some(4.0)];
        let under = [Some(1.0), Some(10.0), Some(5.0), Some(2.0)];
        assert_eq!(ratios(&over, &under), [2.0, 2.0, 2.0]);
        assert_eq!(ratios(&over, &[Some(1.0), None, None, Some(0.0)]), [2.0]);
        assert_eq!(ratios(&over, &[]), Vec::<f64>::new());
    }

    #[test]
    fn the_best_peer_is_chosen_anew_in_each_round() {
        let nginx = vec![Some(10.0), Some(5.0), None];
        let haproxy = vec![Some(8.0), Some(9.0), Some(1.0)];
        let peers = [nginx, haproxy];
        assert_eq!(best(&peers, Better::Higher), [Some(10.0), Some(9.0), Some(1.0)]);
        assert_eq!(best(&peers, Better::Lower), [Some(8.0), Some(5.0), Some(1.0)]);
        assert_eq!(best(&[], Better::Lower), Vec::<Option<f64>>::new());
    }
}
