//! Who has which place in an array that is shared with the programs.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a place stays empty. A program that looked its place up just before it was given back
/// may still write there; programs run for microseconds and cannot be preempted for long.
const QUARANTINE: Duration = Duration::from_millis(20);

/// Places that are free.
#[derive(Debug)]
pub(super) struct Places {
    start: u32,
    /// Places from here to `end` have never been taken.
    fresh: u32,
    end: u32,
    /// Given back, oldest first, with the time.
    returned: VecDeque<(Instant, u32)>,
}

impl Places {
    pub(super) fn new(all: Range<u32>) -> Places {
        Places { start: all.start, fresh: all.start, end: all.end, returned: VecDeque::new() }
    }

    fn take(&mut self, now: Instant) -> Option<u32> {
        if let Some(&(since, place)) = self.returned.front()
            && now.saturating_duration_since(since) >= QUARANTINE
        {
            self.returned.pop_front();
            return Some(place);
        }
        let place = self.fresh;
        (place < self.end).then(|| {
            self.fresh += 1;
            place
        })
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        (self.fresh - self.start) as usize - self.returned.len()
    }

    fn give_back(&mut self, place: u32, now: Instant) {
        self.returned.push_back((now, place));
    }
}

/// A place in an array, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Mutex<Places>>,
    number: u32,
}

impl Place {
    /// `None`: all are taken, or were a moment ago.
    pub(super) fn take(places: &Arc<Mutex<Places>>) -> Option<Place> {
        let number = lock(places).take(Instant::now())?;
        Some(Place { places: Arc::clone(places), number })
    }

    /// Counted from 0.
    pub(super) const fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places).give_back(self.number, Instant::now());
    }
}

pub(super) fn lock(places: &Mutex<Places>) -> std::sync::MutexGuard<'_, Places> {
    // Single calls change what is in there.
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_taken_once() {
        let mut places = Places::new(0..3);
        let now = Instant::now();
        assert_eq!([(); 4].map(|()| places.take(now)), [Some(0), Some(1), Some(2), None]);
        places.give_back(1, now);
        assert_eq!(places.taken(), 2);
    }

    #[test]
    fn a_place_is_empty_for_a_while_before_it_is_taken_again() {
        let mut places = Places::new(0..1);
        let now = Instant::now();
        let place = places.take(now).unwrap();
        places.give_back(place, now);
        assert_eq!(places.take(now + QUARANTINE / 2), None);
        assert_eq!(places.take(now + QUARANTINE), Some(place));
    }

    #[test]
    fn fresh_places_go_before_those_in_quarantine() {
        let mut places = Places::new(0..2);
        let now = Instant::now();
        places.take(now).unwrap();
        places.give_back(0, now);
        assert_eq!(places.take(now), Some(1));
        assert_eq!(places.take(now), None);
        assert_eq!(places.take(now + QUARANTINE), Some(0));
    }
}
