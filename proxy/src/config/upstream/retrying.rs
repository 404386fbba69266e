//! `retry_on`, `retry_budget` and `retry_timeout`: after what a further node is tried, how often, and
//! how long.

use std::{ops::RangeInclusive, time::Duration};

use super::super::{
    bounds,
    planned::Kind,
    reader::{Section, Value},
};
use super::passing::seconds;
use crate::upstream::retry::{RetryBudget, RetryOn};

/// Statuses that may be named one by one.
const STATUS: RangeInclusive<u16> = 400..=599;
const PERCENT: RangeInclusive<u32> = 0..=100;
const MIN_PER_SECOND: RangeInclusive<u32> = 0..=1_000_000;

#[derive(Debug, Clone, Copy)]
enum Word {
    ConnectFailure,
    Reset,
    Timeout,
    GatewayError,
    ServerError,
}

/// Envoy's words, and statuses. `None`: there is an error.
pub(super) fn retry_on(section: &mut Section<'_>) -> Option<RetryOn> {
    let Some(value) = section.take("retry_on") else { return Some(RetryOn::default()) };
    let nothing =
        RetryOn { connect_failure: false, reset: false, timeout: false, statuses: Box::default() };
    let mut retry_on = nothing;
    let mut statuses: Vec<u16> = Vec::new();
    let mut is_valid = true;
    for item in value.items()? {
        if item.quiet_leaf::<u16>().is_some() {
            let status = item.within(&STATUS);
            is_valid &= status.is_some();
            statuses.extend(status);
            continue;
        }
        match word(&item) {
            Some(Word::ConnectFailure) => retry_on.connect_failure = true,
            Some(Word::Reset) => retry_on.reset = true,
            Some(Word::Timeout) => retry_on.timeout = true,
            Some(Word::GatewayError) => statuses.extend(502..=504),
            Some(Word::ServerError) => {
                retry_on = RetryOn::default();
                statuses.extend(500..=599);
            }
            None => is_valid = false,
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    is_valid.then(|| RetryOn { statuses: statuses.into(), ..retry_on })
}

fn word(item: &Value<'_>) -> Option<Word> {
    let words = [
        ("connect-failure", Word::ConnectFailure),
        ("reset", Word::Reset),
        ("timeout", Word::Timeout),
        ("gateway-error", Word::GatewayError),
        ("5xx", Word::ServerError),
    ];
    item.one_of(&words, &[])
}

pub(super) fn retry_budget(section: &mut Section<'_>) -> RetryBudget {
    let default = RetryBudget::default();
    let Some(mut budget) = section.section("retry_budget") else { return default };
    let percent = budget.within_or("percent", PERCENT, default.percent);
    let min_per_second = budget.within_or("min_per_second", MIN_PER_SECOND, default.min_per_second);
    budget.finish(Kind::RetryBudget);
    RetryBudget { percent, min_per_second }
}

/// In seconds; 0 is none.
pub(super) fn retry_timeout(section: &mut Section<'_>) -> Option<Duration> {
    let seconds = seconds(&section.take("retry_timeout")?, &(0.0..=*bounds::SECONDS.end()));
    seconds.filter(|timeout| !timeout.is_zero())
}
