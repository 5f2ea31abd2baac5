// SPDX-License-Identifier: GPL-2.0

//! SIGINT, SIGTERM and SIGHUP: the first one ends the call at work, and the command tells how far it got. A
//! second one ends the command at once.
//!
//! The calls are made in another thread. A thread that hangs in the kernel runs no signal handler,
//! and the kernel prefers the main thread for a signal to the process: as long as that one only
//! waits, each signal gets through.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, TryRecvError};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use page_migrate::CallingThread;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGURG};
use signal_hook::{flag, low_level};

use crate::exit;
use crate::proc;

/// How often the work is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Gets a thread out of its call. It must be another signal than those that are counted, and one
/// that does no harm where no handler is set.
const NUDGE: i32 = SIGURG;

fn is_ignored(signal: i32) -> bool {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    proc::status_field(me, "SigIgn")
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// Signals that have been caught.
pub(crate) struct Signals {
    came: Arc<AtomicBool>,
    /// A byte comes here with each signal, and when the work has ended.
    wake_up: UnixStream,
    wake: UnixStream,
}

impl Signals {
    /// Catches them from now on.
    pub(crate) fn catch() -> io::Result<Self> {
        let (wake_up, wake) = UnixStream::pair()?;
        wake_up.set_read_timeout(Some(TICK))?;
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // nohup(1) has it ignored.
            if signal == SIGHUP && is_ignored(signal) {
                continue;
            }
            // The order counts: the first signal must not find the flag set.
            flag::register_conditional_shutdown(
                signal,
                exit::INTERRUPTED.into(),
                Arc::clone(&came),
            )?;
            flag::register(signal, Arc::clone(&came))?;
            low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        flag::register(NUDGE, Arc::new(AtomicBool::new(false)))?;
        Ok(Signals {
            came,
            wake_up,
            wake,
        })
    }

    /// Is set when the first signal has come.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.came
    }

    /// Whether a signal has come.
    pub(crate) fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// Does some work in another thread, and interrupts its calls once a signal has come. `look` is
    /// called ten times a second while the call is at work, in this thread, and must not wait.
    pub(crate) fn watch<T: Send>(
        &self,
        mut look: impl FnMut(),
        work: impl FnOnce() -> T + Send,
    ) -> T {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                // The receiver is there for as long as this thread is.
                let _ = tell.send(CallingThread::current());
                let done = work();
                drop(end);
                // If this fails, the end is noticed with the next tick.
                let _ = (&self.wake).write(&[0]);
                done
            });
            let caller = told.recv();
            while ended.try_recv() == Err(TryRecvError::Empty) {
                // How it returns says nothing more than that it is time to look again.
                let _ = (&self.wake_up).read(&mut [0; 64]);
                if let (true, Ok(caller)) = (self.came(), caller) {
                    // It may have been just before its call: so it is done again with each tick.
                    // If it has ended, there is nothing to interrupt.
                    let _ = caller.interrupt(NUDGE);
                }
                look();
            }
            worker.join().unwrap_or_else(|e| panic::resume_unwind(e))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_done_in_another_thread() {
        let signals = Signals::catch().unwrap();
        let here = thread::current().id();
        let mut looked = 0;
        let there = signals.watch(
            || looked += 1,
            || {
                thread::sleep(3 * TICK);
                thread::current().id()
            },
        );
        assert_ne!(here, there);
        assert!(looked >= 2, "{looked}");
        // Again, and its end is noticed at once.
        assert_eq!(signals.watch(|| (), || 7), 7);
        assert!(!signals.came());
    }
}
