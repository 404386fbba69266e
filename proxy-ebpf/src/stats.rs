//! Counts reasons: one increment on the processor that runs the program, no event per packet.

use proxy_common::Reason;

use crate::maps::COUNT_BY_REASON;

/// Counts one packet, connection or buffer.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    add(reason, 1);
}

/// Adds to a reason whose unit is not "one": bytes, or a batch.
#[inline(always)]
pub(crate) fn add(reason: Reason, n: u64) {
    if let Some(slot) = COUNT_BY_REASON.get_ptr_mut(reason as u32) {
        // SAFETY: a slot of the counter map, and this processor's own.
        let slot = unsafe { &mut *slot };
        *slot = slot.wrapping_add(n);
    }
}
