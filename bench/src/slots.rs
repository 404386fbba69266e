//! A table of connections by small dense index, as epoll tokens want them.

/// Values under indices that are given out again once they are free.
pub(crate) struct Slots<T> {
    entries: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    /// Puts what `make` builds for an index under that index.
    pub(crate) fn insert_with<E>(
        &mut self,
        make: impl FnOnce(usize) -> Result<T, E>,
    ) -> Result<usize, E> {
        let index = self.free.last().copied().unwrap_or(self.entries.len());
        let value = make(index)?;
        if self.free.pop().is_some() {
            self.entries[index] = Some(value);
        } else {
            self.entries.push(Some(value));
        }
        Ok(index)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.entries.get_mut(index)?.as_mut()
    }

    pub(crate) fn remove(&mut self, index: usize) -> Option<T> {
        let value = self.entries.get_mut(index)?.take()?;
        self.free.push(index);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_reused_and_a_failed_insert_takes_none() {
        let mut slots = Slots::new();
        let mut insert = |value: Result<&'static str, ()>| slots.insert_with(|_| value);
        assert_eq!(insert(Ok("a")), Ok(0));
        assert_eq!(insert(Err(())), Err(()));
        assert_eq!(insert(Ok("b")), Ok(1));
        assert_eq!(slots.remove(0), Some("a"));
        assert_eq!(slots.remove(0), None);
        assert_eq!(
            slots.insert_with(|index| Ok::<_, ()>(if index == 0 { "c" } else { "d" })),
            Ok(0)
        );
        assert_eq!(slots.get_mut(0), Some(&mut "c"));
        assert_eq!(slots.get_mut(2), None);
    }
}
