//! What decides whether one node takes requests: a value that fits a word, and what becomes of it.
//!
//! | state | a success makes it | a failure makes it |
//! |---|---|---|
//! | healthy | healthy | mostly healthy; unhealthy at the limit |
//! | mostly healthy | mostly healthy; healthy at the limit | mostly healthy; unhealthy at the limit |
//! | mostly unhealthy | mostly unhealthy; healthy at the limit | mostly unhealthy; unhealthy at the limit |
//! | unhealthy | mostly unhealthy; healthy at the limit | unhealthy |
//!
//! Successes in a row are counted, and each kind of failure since the last success. The first two
//! states are up. Beside that an outlier is ejected, whatever its state.

use super::{Excess, Outcome};
use crate::config::{CheckKind, Judgement, OutlierDetection};

/// As checks see a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Healthy,
    MostlyHealthy,
    MostlyUnhealthy,
    Unhealthy,
}

impl State {
    const ALL: [State; 4] =
        [State::Healthy, State::MostlyHealthy, State::MostlyUnhealthy, State::Unhealthy];

    pub(super) const fn is_up(self) -> bool {
        matches!(self, State::Healthy | State::MostlyHealthy)
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            State::Healthy => "healthy",
            State::MostlyHealthy => "mostly_healthy",
            State::MostlyUnhealthy => "mostly_unhealthy",
            State::Unhealthy => "unhealthy",
        }
    }
}

/// What a check makes of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    Success,
    HttpFailure,
    TcpFailure,
    Timeout,
}

impl Report {
    pub(super) const ALL: [Report; 4] =
        [Report::Success, Report::HttpFailure, Report::TcpFailure, Report::Timeout];

    /// `None`: it says nothing either way.
    pub(super) fn of(outcome: Outcome, kind: CheckKind, judgement: &Judgement) -> Option<Report> {
        match (outcome, kind) {
            (Outcome::Closed, _) => Some(Report::TcpFailure),
            (Outcome::TimedOut, _) => Some(Report::Timeout),
            (Outcome::Connected | Outcome::Status(_), CheckKind::Tcp) => Some(Report::Success),
            (Outcome::Connected, CheckKind::Http | CheckKind::Https) => None,
            (Outcome::Status(status), CheckKind::Http | CheckKind::Https) => {
                if judgement.healthy_statuses.contains(&status) {
                    Some(Report::Success)
                } else {
                    let is_listed = judgement.unhealthy_statuses.contains(&status);
                    is_listed.then_some(Report::HttpFailure)
                }
            }
        }
    }

    /// How many of them matter; 0: none do.
    pub(super) const fn limit(self, judgement: &Judgement) -> u8 {
        match self {
            Report::Success => judgement.successes,
            Report::HttpFailure => judgement.http_failures,
            Report::TcpFailure => judgement.tcp_failures,
            Report::Timeout => judgement.timeouts,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) state: State,
    /// Of each kind of report.
    tallies: [u8; Report::ALL.len()],
    pub(super) is_ejected: bool,
    /// In a row: 5xx or no answer.
    server_errors: u8,
    /// In a row: 502, 503, 504 or no answer.
    gateway_failures: u8,
}

/// Above the bits of the state.
const EJECTED: u8 = 1 << 7;

impl Standing {
    pub(super) const fn is_up(self) -> bool {
        self.state.is_up() && !self.is_ejected
    }

    /// After one more report, of which `limit` matter.
    pub(super) fn reported(mut self, report: Report, limit: u8) -> Standing {
        let is_success = report == Report::Success;
        let settled = if is_success { State::Healthy } else { State::Unhealthy };
        if limit == 0 || self.state == settled {
            return self;
        }
        let tally = self.tallies[report as usize].saturating_add(1);
        if tally >= limit {
            return Standing { state: settled, tallies: [0; Report::ALL.len()], ..self };
        }
        if is_success {
            self.tallies = [0; Report::ALL.len()];
        } else {
            self.tallies[Report::Success as usize] = 0;
        }
        self.tallies[report as usize] = tally;
        self.state = match self.state {
            State::Healthy | State::MostlyHealthy => State::MostlyHealthy,
            State::MostlyUnhealthy | State::Unhealthy => State::MostlyUnhealthy,
        };
        self
    }

    /// After one more outcome, and what it is too many of. An ejected node is not counted against.
    pub(super) fn met(
        mut self,
        outcome: Outcome,
        rules: &OutlierDetection,
    ) -> (Standing, Option<Excess>) {
        if self.is_ejected {
            return (self, None);
        }
        let one_more = |count: u8, counts: bool| if counts { count.saturating_add(1) } else { 0 };
        self.server_errors = one_more(self.server_errors, outcome.is_server_error());
        self.gateway_failures = one_more(self.gateway_failures, outcome.is_gateway_failure());
        let is_over = |count: u8, limit: u8| limit > 0 && count >= limit;
        let excess = if is_over(self.server_errors, rules.consecutive_5xx) {
            Excess::ServerErrors
        } else if is_over(self.gateway_failures, rules.consecutive_gateway_failure) {
            Excess::GatewayFailures
        } else {
            return (self, None);
        };
        (self.without_streaks(), Some(excess))
    }

    pub(super) fn ejected(self) -> Standing {
        Standing { is_ejected: true, ..self.without_streaks() }
    }

    pub(super) fn readmitted(self) -> Standing {
        Standing { is_ejected: false, ..self.without_streaks() }
    }

    fn without_streaks(self) -> Standing {
        Standing { server_errors: 0, gateway_failures: 0, ..self }
    }

    pub(super) fn pack(self) -> u64 {
        let [success, http, tcp, timeout] = self.tallies;
        let state = self.state as u8 | if self.is_ejected { EJECTED } else { 0 };
        let counts = [self.server_errors, self.gateway_failures];
        u64::from_le_bytes([state, success, http, tcp, timeout, counts[0], counts[1], 0])
    }

    pub(super) fn unpack(word: u64) -> Standing {
        let [state, success, http, tcp, timeout, server_errors, gateway_failures, _] =
            word.to_le_bytes();
        Standing {
            state: State::ALL[usize::from(state) % State::ALL.len()],
            tallies: [success, http, tcp, timeout],
            is_ejected: state & EJECTED != 0,
            server_errors,
            gateway_failures,
        }
    }
}
