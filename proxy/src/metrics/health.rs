//! What is counted of the health of an upstream's nodes. Whether each of them takes requests is read
//! when a page is asked for.

use std::{net::SocketAddr, sync::Arc};

use prometheus_client::metrics::counter::Counter;

use super::{Families, Name, UpstreamLabels, UpstreamResultLabels};

/// Handles of one upstream whose nodes are judged.
#[derive(Debug)]
pub struct HealthMetrics {
    upstream: Name,
    checks: [Counter; CheckResult::ALL.len()],
    checks_delayed: Counter,
    ejections: [Counter; Ejection::ALL.len()],
    all_down: Counter,
}

impl HealthMetrics {
    pub(super) fn new(families: &Families, upstream: Name) -> HealthMetrics {
        let labels = UpstreamLabels { upstream: Arc::clone(&upstream) };
        let with = |result| UpstreamResultLabels { upstream: Arc::clone(&upstream), result };
        HealthMetrics {
            checks: CheckResult::ALL
                .map(|result| families.checks.get_or_create_owned(&with(result.label()))),
            checks_delayed: families.checks_delayed.get_or_create_owned(&labels),
            ejections: Ejection::ALL
                .map(|result| families.ejections.get_or_create_owned(&with(result.label()))),
            all_down: families.all_down.get_or_create_owned(&labels),
            upstream,
        }
    }

    /// Takes its series off the page.
    pub(super) fn forget(&self, families: &Families) {
        let with = |result| UpstreamResultLabels { upstream: Arc::clone(&self.upstream), result };
        for result in CheckResult::ALL {
            families.checks.remove(&with(result.label()));
        }
        for result in Ejection::ALL {
            families.ejections.remove(&with(result.label()));
        }
        let labels = UpstreamLabels { upstream: Arc::clone(&self.upstream) };
        families.checks_delayed.remove(&labels);
        families.all_down.remove(&labels);
    }

    /// A node was probed.
    pub fn check(&self, result: CheckResult) {
        self.checks[result as usize].inc();
    }

    /// A probe had to wait until others were through.
    pub fn check_delayed(&self) {
        self.checks_delayed.inc();
    }

    /// A node was too often in a row what it should not be.
    pub fn ejection(&self, result: Ejection) {
        self.ejections[result as usize].inc();
    }

    /// No node was up, so that all were used.
    pub fn all_down(&self) {
        self.all_down.inc();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    Success,
    /// A status that speaks against the node.
    HttpFailure,
    /// No connection, or no response on it.
    TcpFailure,
    Timeout,
    /// A status that says nothing either way.
    Ignored,
}

impl CheckResult {
    pub(super) const ALL: [CheckResult; 5] = [
        CheckResult::Success,
        CheckResult::HttpFailure,
        CheckResult::TcpFailure,
        CheckResult::Timeout,
        CheckResult::Ignored,
    ];

    const fn label(self) -> &'static str {
        match self {
            CheckResult::Success => "success",
            CheckResult::HttpFailure => "http_failure",
            CheckResult::TcpFailure => "tcp_failure",
            CheckResult::Timeout => "timeout",
            CheckResult::Ignored => "ignored",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ejection {
    Ejected,
    /// As many are as may be.
    Refused,
}

impl Ejection {
    pub(super) const ALL: [Ejection; 2] = [Ejection::Ejected, Ejection::Refused];

    const fn label(self) -> &'static str {
        match self {
            Ejection::Ejected => "ejected",
            Ejection::Refused => "refused",
        }
    }
}

/// Whether a node takes requests, when a page is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSample {
    pub upstream: Arc<str>,
    pub node: SocketAddr,
    /// The name that the node has its address from.
    pub host: Option<String>,
    pub is_up: bool,
}
