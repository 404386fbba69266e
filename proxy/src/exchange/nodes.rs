//! A request's way over the nodes of its upstream: which is next, and whether there is to be a next one.

use std::borrow::Cow;

use tokio::time::Instant;

use crate::{
    config::Node,
    connection::ConnectionCx,
    error::{Fault, Retry},
    pipeline::Plan,
    upstream::{
        balance::{Picked, Tried},
        health::Outcome,
    },
};

/// What a node has answered with.
pub(crate) trait Answered {
    fn status(&self) -> u16;
    /// When that began.
    fn at(&self) -> std::time::Instant;
}

/// Tries one node after the other, as the balancer picks them, until there is an answer, or a fault,
/// that no other node is to be asked after, or there is no node left. The node counts as busy until
/// what was picked is dropped.
pub(crate) async fn over_nodes<T: Answered>(
    cx: &ConnectionCx,
    plan: &Plan<'_>,
    mut attempt: impl AsyncFnMut(&Node) -> Result<T, Fault>,
) -> Result<(T, Picked), Fault> {
    let upstream = &plan.upstream;
    let key = hash_key(plan);
    cx.node_waits.set(plan.node_waits(&cx.worker.timeouts));
    let retries_end = upstream.config.retry_timeout.map(|timeout| Instant::now() + timeout);
    let mut tried = Tried::default();
    let tied = cx.worker.pick_tied(upstream, plan.request.head);
    let first = tied.or_else(|| cx.worker.pick(upstream, &tried, &key));
    let mut picked = first.ok_or(Fault::NoNode)?;
    loop {
        let result = attempt(upstream.balancer.node(picked.index())).await;
        observe(plan, &picked, &result);
        let Some(price) = price_of_another(plan, &result) else {
            return conclude(cx, picked, result);
        };
        tried.insert(picked.index());
        let has_more = tried.len() <= upstream.config.retries;
        let next = has_more.then(|| cx.worker.pick(upstream, &tried, &key)).flatten();
        let Some(next) = next else { return conclude(cx, picked, result) };
        if retries_end.is_some_and(|end| Instant::now() >= end) {
            return conclude(cx, picked, result).map_err(|_| Fault::RetriesTimedOut);
        }
        if price == Price::Budget && !upstream.allows_retry() {
            return conclude(cx, picked, result);
        }
        if let Ok(unwanted) = result {
            upstream.observe(picked.index(), Outcome::Status(unwanted.status()));
        }
        upstream.metrics.retry();
        picked = next;
    }
}

/// The last attempt. Of its response health learns when that is over.
fn conclude<T: Answered>(
    cx: &ConnectionCx,
    picked: Picked,
    result: Result<T, Fault>,
) -> Result<(T, Picked), Fault> {
    let answer = result?;
    cx.record(|record| record.answered_by(picked.index(), answer.status()));
    Ok((answer, picked))
}

/// What the balancer learns of an attempt, and health of one in vain.
fn observe(plan: &Plan<'_>, picked: &Picked, result: &Result<impl Answered, Fault>) {
    match result {
        Ok(answer) => picked.answered(|| answer.at()),
        Err(fault) => {
            if fault.is_of_node() {
                picked.failed(std::time::Instant::now);
            }
            if let Some(outcome) = Outcome::of_fault(*fault) {
                plan.upstream.observe(picked.index(), outcome);
            }
        }
    }
}

/// What a further attempt is paid with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Price {
    /// No node has seen the request.
    Nothing,
    Budget,
}

/// `None`: this was the last attempt.
fn price_of_another(plan: &Plan<'_>, result: &Result<impl Answered, Fault>) -> Option<Price> {
    let on = &plan.upstream.config.retry_on;
    let is_wanted = match result {
        Ok(answer) => on.statuses.contains(&answer.status()),
        Err(fault) => match fault.consequence().retry {
            Retry::NextNode => return on.connect_failure.then_some(Price::Nothing),
            Retry::AfterReset => on.reset,
            Retry::AfterTimeout => on.timeout,
            Retry::FreshConnection | Retry::Never => false,
        },
    };
    (is_wanted && plan.is_replayable()).then_some(Price::Budget)
}

/// What the upstream's balancer hashes, if it does.
fn hash_key<'a>(plan: &'a Plan<'_>) -> Cow<'a, [u8]> {
    match &plan.upstream.config.hash_key {
        Some(key) => key.of_request(&plan.request.facts()),
        None => Cow::default(),
    }
}
