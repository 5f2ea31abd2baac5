// SPDX-License-Identifier: GPL-2.0

//! No more than so many bytes a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use page_migrate::page_size;

/// What is copied without a pause takes about that long, at the rate.
const BURST: u64 = 10;

/// How often a pause looks for signals.
const NAP: Duration = Duration::from_millis(20);

/// How fast pages may move.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    begun: Instant,
    moved: u64,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Pace {
            bytes_per_second,
            begun: Instant::now(),
            moved: 0,
        }
    }

    /// Time counts from now on.
    pub(crate) fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// How many pages one call may move: a tenth of a second's.
    pub(crate) fn pages(&self) -> u64 {
        (self.bytes_per_second / BURST / page_size()).max(1)
    }

    /// When what has moved by now may have moved.
    fn due(&self) -> Duration {
        let bytes = u128::from(self.moved) * u128::from(page_size());
        let millis = bytes * 1000 / u128::from(self.bytes_per_second.max(1));
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// Waits until more may move. Returns false if a signal came.
    pub(crate) fn wait(&mut self, moved: u64, interrupted: &AtomicBool) -> bool {
        self.moved = self.moved.saturating_add(moved);
        let due = self.due();
        while !interrupted.load(Ordering::Relaxed) {
            match due.checked_sub(self.begun.elapsed()) {
                Some(rest) if !rest.is_zero() => thread::sleep(rest.min(NAP)),
                _ => return true,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses() {
        let page = page_size();
        let mut pace = Pace::new(1000 * page);
        assert_eq!(pace.pages(), 100);
        let never = AtomicBool::new(false);
        assert!(pace.wait(100, &never) && pace.wait(100, &never));
        let took = pace.begun.elapsed();
        assert!(took >= Duration::from_millis(200), "{took:?}");
        let at_once = AtomicBool::new(true);
        assert!(!pace.wait(1_000_000, &at_once));
        assert!(pace.begun.elapsed() < Duration::from_secs(60));
        assert_eq!(Pace::new(1).pages(), 1);
    }
}
