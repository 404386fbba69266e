//! The early copy of the guard's rules. Userspace enforces the same rules at accept, in every mode.

use aya_ebpf::{bindings::BPF_ANY, btf_maps::lpm_trie::Key, helpers::bpf_ktime_get_ns};
use proxy_common::{
    Reason,
    addr::{Address, Source},
    guard::Bucket,
};
use proxy_ebpf::{
    packet::{Kind, Segment},
    rate::Rate,
};

use crate::maps::{
    FLOOD_GAUGE, FLOOD_SOURCES_MAX, RATE_BY_SOURCE, RATE_INTERVAL_NS, RATE_TOLERANCE_NS,
    RULE_BY_PREFIX4, RULE_BY_PREFIX6, RULES,
};

/// Judges a segment that is ours.
#[inline(always)]
pub(crate) fn judge(segment: &Segment) -> Result<Reason, Reason> {
    if is_denied(segment.source) {
        return Err(Reason::Blocked);
    }
    match segment.kind {
        Kind::Opening => admit(segment.source),
        Kind::Following => Ok(Reason::Forwarded),
    }
}

/// What the longest prefix that has this source in it says.
#[inline(always)]
fn is_denied(source: Address) -> bool {
    if RULES.load() == 0 {
        return false;
    }
    let rule = match source.as_v4() {
        Some(octets) => RULE_BY_PREFIX4.get(&Key::new(32, octets)),
        None => RULE_BY_PREFIX6.get(&Key::new(128, source.octets())),
    };
    rule.is_some_and(|rule| rule.is_denied())
}

/// Takes a token of the source's bucket.
///
/// Two processors that read the same bucket at once admit one connection between them for free;
/// the rate at accept is exact.
#[inline(always)]
fn admit(source: Address) -> Result<Reason, Reason> {
    let rate =
        Rate { interval_ns: RATE_INTERVAL_NS.load(), tolerance_ns: RATE_TOLERANCE_NS.load() };
    if rate.interval_ns == 0 {
        return Ok(Reason::Admitted);
    }
    let source = Source::from(source);
    // SAFETY: reads the clock.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(bucket) = RATE_BY_SOURCE.get_ptr_mut(source) else {
        return track(source, rate, now_ns);
    };
    // SAFETY: the lookup gave a bucket of the map; a recycled one is another source's bucket of
    // the same shape, and the worst of that is one connection judged by the wrong bucket.
    let bucket = unsafe { &mut *bucket };
    let full_at_ns = rate.take(bucket.full_at_ns(), now_ns).ok_or(Reason::RateLimited)?;
    *bucket = Bucket::new(full_at_ns);
    Ok(Reason::Admitted)
}

/// Gives a source that has no bucket its first one, unless so many new sources come that they
/// would push the buckets of everyone else out of the table: then none of them is tracked.
#[inline(always)]
fn track(source: Source, rate: Rate, now_ns: u64) -> Result<Reason, Reason> {
    let full_at_ns = rate.take(0, now_ns).ok_or(Reason::RateLimited)?;
    let is_flooded = FLOOD_GAUGE.get_ptr_mut(0).is_none_or(|gauge| {
        // SAFETY: the slot belongs to this processor.
        let gauge = unsafe { &mut *gauge };
        gauge.count(now_ns) > FLOOD_SOURCES_MAX.load()
    });
    if is_flooded {
        return Ok(Reason::Untracked);
    }
    match RATE_BY_SOURCE.insert(source, Bucket::new(full_at_ns), BPF_ANY.into()) {
        Ok(()) => Ok(Reason::Admitted),
        Err(_) => Ok(Reason::Untracked),
    }
}
