//! What clients in other languages do: a conversation a line, all of it decided by its seed.
//!
//! ```text
//! ADDRESS SEED step …    get:SIZE:PAUSE  post:SIZE:PIECE  chunked:SIZE:PIECE  rest:SIZE  pause:TIME
//!                        and as the last one perhaps       half:SIZE  reset:SIZE  cut:SIZE
//! ```
//!
//! They answer with a line each, `done SEED` or `failed SEED why`, in any order.
//!
//! Sizes and pieces (of which a body is written) are bytes, times milliseconds; `PAUSE` is between
//! the head and the body of an answer. Each is the name of a function in the programs.

use std::net::SocketAddr;

use crate::tunnel::Noise;

struct Plan(Noise);

impl Plan {
    fn up_to(&mut self, bound: u64) -> u64 {
        1 + self.0.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.up_to(count) == 1
    }

    /// Mostly small, now and then larger than the window.
    fn size(&mut self) -> u64 {
        let shift = if self.one_in(12) { 21 } else { self.up_to(16) };
        self.up_to(1 << shift)
    }

    fn step(&mut self) -> String {
        let size = self.size();
        // Not a million of one byte each.
        let piece = 1 + size / 500 + self.up_to(30_000);
        let pause = if self.one_in(6) { self.up_to(20) } else { 0 };
        match self.up_to(8) {
            1..=3 => format!("get:{size}:{pause}"),
            4 | 5 => format!("post:{size}:{piece}"),
            6 => format!("chunked:{size}:{piece}"),
            7 => format!("rest:{size}"),
            _ => format!("pause:{}", self.up_to(10)),
        }
    }

    fn last(&mut self) -> Option<String> {
        let size = self.size();
        match self.up_to(6) {
            1 => Some(format!("half:{size}")),
            2 => Some(format!("reset:{size}")),
            3 => Some(format!("cut:{size}")),
            _ => None,
        }
    }
}

/// The conversation of a seed.
pub(super) fn conversation(to: SocketAddr, seed: u64) -> String {
    let mut plan = Plan(Noise(seed << 20 | 1));
    let count = 3 + plan.up_to(6);
    let mut words = vec![to.to_string(), seed.to_string()];
    words.extend((0..count).map(|_| plan.step()));
    words.extend(plan.last());
    words.join(" ")
}
