//! What is to happen, in order of time; what is due at one instant happens in the order in which it was asked for.
//!
//! Owns: simulated time. Refuses: knowing what an event means.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug)]
struct Entry<E> {
    at_ns: u64,
    number: u64,
    event: E,
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        (other.at_ns, other.number).cmp(&(self.at_ns, self.number))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

/// The queue; it knows what time it is.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Entry<E>>,
    next: u64,
    now_ns: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), next: 0, now_ns: 0 }
    }
}

impl<E> Queue<E> {
    /// The time of the event that was given last.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// `event` happens after `delay_ns`.
    pub fn after(&mut self, delay_ns: u64, event: E) {
        self.at(self.now_ns.saturating_add(delay_ns), event);
    }

    /// `event` happens at a time, or now if that is past.
    pub fn at(&mut self, at_ns: u64, event: E) {
        let at_ns = at_ns.max(self.now_ns);
        self.heap.push(Entry { at_ns, number: self.next, event });
        self.next += 1;
    }

    /// The next event; time moves on to it.
    pub fn pop(&mut self) -> Option<E> {
        let entry = self.heap.pop()?;
        self.now_ns = entry.at_ns;
        Some(entry.event)
    }

    /// Events so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_first_and_of_one_instant_in_the_order_of_asking() {
        let mut queue = Queue::default();
        queue.after(5, 'b');
        queue.after(5, 'c');
        queue.after(1, 'a');
        assert_eq!(queue.pop(), Some('a'));
        queue.at(0, 'x');
        assert_eq!((queue.pop(), queue.now_ns()), (Some('x'), 1));
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some('b'), Some('c'), None));
        assert_eq!(queue.now_ns(), 5);
    }
}
