//! After what a request goes to a further node, and how many may.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// `retry_on`: what a further node may be tried after.
///
/// No node has seen a request that could not be delivered; after everything else it is sent again
/// only if that does no harm (RFC 9110 section 9.2.2) and it had no body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryOn {
    /// The node could not be connected to.
    pub connect_failure: bool,
    /// It closed the connection before its response began.
    pub reset: bool,
    /// Its response did not begin in time.
    pub timeout: bool,
    /// It answered with one of these.
    pub statuses: Box<[u16]>,
}

/// What nginx and APISIX do.
impl Default for RetryOn {
    fn default() -> RetryOn {
        RetryOn { connect_failure: true, reset: true, timeout: true, statuses: Box::default() }
    }
}

/// `retry_budget`: how many requests may be sent again that a node may have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests of the last ten seconds.
    pub percent: u32,
    /// Retries a second that there are beside that.
    pub min_per_second: u32,
}

/// Linkerd's.
impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget { percent: 20, min_per_second: 10 }
    }
}

/// How long a request that was not retried allows for a retry.
const WINDOW: Duration = Duration::from_secs(10);

/// The retries that there are left, over all workers.
///
/// Requests pay nothing into it: how many there were since is counted when a retry asks.
#[derive(Debug)]
pub struct Retries {
    budget: RetryBudget,
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    left: f64,
    /// Requests that have been paid in.
    requests: u64,
    at: Instant,
}

impl Retries {
    pub fn new(budget: RetryBudget, requests: u64, now: Instant) -> Retries {
        let left = f64::from(budget.min_per_second) * WINDOW.as_secs_f64();
        Retries { budget, account: Mutex::new(Account { left, requests, at: now }) }
    }

    /// Whether there may be one more, `requests` having been sent by now.
    pub fn take(&self, requests: u64, now: Instant) -> bool {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.pay_in(self.budget, requests, now);
        let may = account.left >= 1.0;
        if may {
            account.left -= 1.0;
        }
        may
    }
}

impl Account {
    /// What was paid in fades, as if it had come evenly since.
    fn pay_in(&mut self, budget: RetryBudget, requests: u64, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        let window = WINDOW.as_secs_f64();
        let new = requests.saturating_sub(self.requests) as f64;
        let earned =
            f64::from(budget.percent) / 100.0 * new + f64::from(budget.min_per_second) * since;
        self.left = if since < window {
            self.left * (1.0 - since / window) + earned
        } else {
            earned * window / since
        };
        self.requests = self.requests.max(requests);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests;
