//! A list that is short nearly always.

/// Items that are kept in place.
const IN_PLACE: usize = 2;

/// A list that allocates only if it is longer than usual.
#[derive(Debug)]
pub(super) struct Few<T> {
    first: [Option<T>; IN_PLACE],
    /// Empty unless `first` is full.
    more: Vec<T>,
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self { first: [const { None }; IN_PLACE], more: Vec::new() }
    }
}

impl<T> Few<T> {
    pub(super) fn push(&mut self, item: T) {
        match self.first.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(item),
            None => self.more.push(item),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().flatten().chain(&self.more)
    }

    /// The first item that is meant.
    pub(super) fn find_mut(&mut self, is_meant: impl Fn(&T) -> bool) -> Option<&mut T> {
        self.first.iter_mut().flatten().chain(&mut self.more).find(|item| is_meant(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_stay_in_order_whatever_their_number() {
        let mut few = Few::default();
        for size in 0..=2 * IN_PLACE {
            assert!(few.iter().copied().eq(0..size), "{few:?}");
            few.push(size);
        }
        for item in 0..=2 * IN_PLACE {
            assert_eq!(few.find_mut(|other| *other == item).map(|item| *item), Some(item));
        }
        assert_eq!(few.find_mut(|item| *item == usize::MAX), None);
    }
}
