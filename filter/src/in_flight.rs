//! The requests that are not over, by the host's number for them.
//!
//! Every request is put in and taken out once, and the host numbers them one after the other. So the place of a number
//! is its low bits: neighbours stand side by side, and hardly ever in each other's way. What was taken out leaves no
//! mark behind, as it would in the standard library's table, which has to tidy up every few requests while only few
//! are in flight.

/// The host's number for a plugin or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(pub u32);

/// The smallest table that is not empty.
const FIRST_SLOTS: usize = 64;

/// Values by number. It grows with the most requests that were ever in flight, and does not shrink: neither does a
/// VM's memory.
#[derive(Debug)]
pub struct InFlight<T> {
    /// None, or a power of two of which at most half are taken.
    slots: Vec<Option<(ContextId, T)>>,
    taken: usize,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> InFlight<T> {
    /// Nothing is in flight.
    pub const fn new() -> Self {
        Self {
            slots: Vec::new(),
            taken: 0,
        }
    }

    /// Puts a value in, in place of what has this number.
    pub fn insert(&mut self, id: ContextId, value: T) {
        if self.taken * 2 >= self.slots.len() {
            self.grow();
        }
        let mut place = self.home(id);
        while let Some(slot) = self.slots.get_mut(place) {
            if slot.as_ref().is_none_or(|(taken, _)| *taken == id) {
                self.taken += usize::from(slot.is_none());
                *slot = Some((id, value));
                return;
            }
            place = self.after(place);
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, id: ContextId) -> Option<T> {
        let mut place = self.home(id);
        while self.slots.get(place)?.as_ref()?.0 != id {
            place = self.after(place);
        }
        let (_, value) = self.slots.get_mut(place)?.take()?;
        self.taken -= 1;
        self.close_gap(place);
        Some(value)
    }

    /// Moves what stands behind a gap because its own place was taken, so that it is found again.
    fn close_gap(&mut self, mut gap: usize) {
        let mut place = gap;
        loop {
            place = self.after(place);
            let Some(Some((id, _))) = self.slots.get(place) else {
                return;
            };
            // How far it is from its own place, and from the gap.
            let (astray, back) = (self.distance(self.home(*id), place), self.distance(gap, place));
            if astray >= back {
                self.slots.swap(gap, place);
                gap = place;
            }
        }
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(FIRST_SLOTS);
        let old = std::mem::replace(
            &mut self.slots,
            std::iter::repeat_with(|| None).take(slots).collect(),
        );
        self.taken = 0;
        for (id, value) in old.into_iter().flatten() {
            self.insert(id, value);
        }
    }

    fn home(&self, id: ContextId) -> usize {
        id.0 as usize & self.mask()
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & self.mask()
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }

    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(operations in prop::collection::vec((any::<bool>(), prop_oneof![0..40_u32, 60..70_u32, 120..140_u32, any::<u32>()]), 0..400)) {
            let mut table = InFlight::new();
            let mut model = HashMap::new();
            for (value, (inserts, id)) in operations.into_iter().enumerate() {
                if inserts {
                    table.insert(ContextId(id), value);
                    model.insert(id, value);
                } else {
                    prop_assert_eq!(table.remove(ContextId(id)), model.remove(&id));
                }
                prop_assert_eq!(table.taken, model.len());
            }
            for (id, value) in model {
                prop_assert_eq!(table.remove(ContextId(id)), Some(value));
            }
        }
    }

    #[test]
    fn it_grows_with_what_is_in_flight_not_with_what_passes() {
        let mut table = InFlight::new();
        for id in 0..100_000_u32 {
            table.insert(ContextId(id), id);
            if let Some(over) = id.checked_sub(20) {
                assert_eq!(table.remove(ContextId(over)), Some(over));
            }
        }
        assert_eq!(table.slots.len(), FIRST_SLOTS);
    }
}
