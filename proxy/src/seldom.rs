//! What happens often and is logged seldom.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// Between two lines of a kind in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Allows something again when it was long ago.
#[derive(Default)]
pub(crate) struct Seldom(Cell<Option<Instant>>);

impl Seldom {
    pub(crate) fn is_time(&self) -> bool {
        let now = Instant::now();
        let is_time = self.0.get().is_none_or(|last| now - last >= LOG_INTERVAL);
        if is_time {
            self.0.set(Some(now));
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_often_is_said_seldom() {
        let seldom = Seldom::default();
        assert!(seldom.is_time() && !seldom.is_time());
        time::advance(LOG_INTERVAL).await;
        assert!(seldom.is_time() && !seldom.is_time());
    }
}
