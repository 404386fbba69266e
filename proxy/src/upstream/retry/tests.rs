use super::*;

const BUDGET: RetryBudget = RetryBudget { percent: 20, min_per_second: 10 };

fn taken(retries: &Retries, requests: u64, now: Instant) -> usize {
    (0..10_000).take_while(|_| retries.take(requests, now)).count()
}

#[test]
fn what_the_minimum_gives_in_ten_seconds_is_there_at_once() {
    let start = Instant::now();
    let retries = Retries::new(BUDGET, 0, start);
    assert_eq!(taken(&retries, 0, start), 100);
    assert_eq!(taken(&retries, 0, start + Duration::from_secs(1)), 10);
}

#[test]
fn a_share_of_the_requests_comes_on_top() {
    let start = Instant::now();
    let retries = Retries::new(BUDGET, 1000, start);
    assert_eq!(taken(&retries, 2000, start), 100 + 200);
    // Those are paid in.
    assert_eq!(taken(&retries, 2000, start), 0);
}

#[test]
fn an_hour_without_retries_is_worth_ten_seconds() {
    let start = Instant::now();
    let retries = Retries::new(BUDGET, 0, start);
    // 100 requests a second.
    let (hour, requests) = (Duration::from_secs(3600), 360_000);
    let taken = taken(&retries, requests, start + hour);
    assert!((298..=300).contains(&taken), "{taken}");
}

#[test]
fn what_is_left_fades() {
    let start = Instant::now();
    let budget = RetryBudget { percent: 100, min_per_second: 0 };
    let retries = Retries::new(budget, 0, start);
    assert!(!retries.take(0, start));
    assert!(retries.take(1000, start));
    let taken = taken(&retries, 1000, start + Duration::from_secs(9));
    assert!((90..=100).contains(&taken), "{taken}");
}

#[test]
fn nothing_is_nothing_and_a_clock_that_lags_does_no_harm() {
    let start = Instant::now();
    let retries = Retries::new(RetryBudget { percent: 0, min_per_second: 0 }, 0, start);
    assert!(!retries.take(1 << 40, start + Duration::from_secs(100)));
    let retries = Retries::new(BUDGET, 100, start + Duration::from_secs(1));
    assert_eq!(taken(&retries, 50, start), 100);
}
