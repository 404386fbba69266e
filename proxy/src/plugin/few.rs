//! A list that is short nearly always.

/// A list that allocates only if it is longer than `N`.
#[derive(Debug)]
pub(super) struct Few<T, const N: usize> {
    first: [Option<T>; N],
    /// Empty unless `first` is full.
    more: Vec<T>,
}

impl<T, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Self { first: [const { None }; N], more: Vec::new() }
    }
}

impl<T, const N: usize> Few<T, N> {
    pub(super) fn push(&mut self, item: T) {
        match self.first.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(item),
            None => self.more.push(item),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().flatten().chain(&self.more)
    }

    /// Drops every item that is not kept.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&T) -> bool) {
        if self.iter().all(&is_kept) {
            return;
        }
        let items = self.first.iter_mut().filter_map(Option::take);
        let kept: Vec<T> = items.chain(std::mem::take(&mut self.more)).filter(is_kept).collect();
        kept.into_iter().for_each(|item| self.push(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_PLACE: usize = 2;

    #[test]
    fn items_stay_in_order_whatever_their_number() {
        let mut few = Few::<usize, IN_PLACE>::default();
        for size in 0..=2 * IN_PLACE {
            assert!(few.iter().copied().eq(0..size), "{few:?}");
            few.push(size);
        }
        few.retain(|item| item % 2 == 1);
        assert!(few.iter().copied().eq((0..=2 * IN_PLACE).filter(|item| item % 2 == 1)), "{few:?}");
    }
}
