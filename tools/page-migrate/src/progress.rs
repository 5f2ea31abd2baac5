// SPDX-License-Identifier: MIT OR Apache-2.0

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::Device;

/// What the fdinfo of an open device says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pages that the job has moved so far, fallback included.
    pub moved: u64,
    /// Pages that the last or the current call leaves behind.
    pub left: u64,
    /// Where a call stands or stopped.
    pub va: u64,
    /// Whether a call is at work.
    pub running: bool,
}

impl Progress {
    fn parse(fdinfo: &str) -> Option<Self> {
        let field = |name: &str| {
            fdinfo
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        Some(Progress {
            moved: field("moved")?.parse().ok()?,
            left: field("left")?.parse().ok()?,
            va: u64::from_str_radix(field("va")?.strip_prefix("0x")?, 16).ok()?,
            running: field("running")? != "0",
        })
    }
}

impl Device {
    /// How far the work of this device is. Another thread can ask while a call
    /// is at work.
    pub fn progress(&self) -> io::Result<Progress> {
        let fd = self.as_fd().as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
        Progress::parse(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fdinfo without progress"))
    }
}

/// A thread that other threads can get out of a call, by a signal.
#[derive(Clone, Copy, Debug)]
pub struct CallingThread(libc::c_long);

impl CallingThread {
    /// The one that asks.
    pub fn current() -> Self {
        // SAFETY: gettid() has no arguments.
        CallingThread(unsafe { libc::syscall(libc::SYS_gettid) })
    }

    /// Sends it a signal. The program must handle that signal, in whatever
    /// way: then a call at work ends with [`Stop::Interrupted`](crate::Stop).
    pub fn interrupt(self, signal: i32) -> io::Result<()> {
        // SAFETY: tgkill() takes three numbers, and reaches no other process
        // than this one.
        let done = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), self.0, signal) };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo() {
        let text = "pos:\t0\nflags:\t0100000\nmoved:\t12\nleft:\t3\nva:\t0x7f00\nrunning:\t1\n";
        assert_eq!(
            Progress::parse(text),
            Some(Progress {
                moved: 12,
                left: 3,
                va: 0x7f00,
                running: true,
            })
        );
        assert_eq!(Progress::parse("pos:\t0\n"), None);
        assert_eq!(Progress::parse(&text.replace("0x", "")), None);
    }

    #[test]
    fn another_file_has_no_progress() {
        let device = Device::open_at("/dev/null").unwrap();
        let e = device.progress().unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_signal_for_nobody() {
        // Signal 0 only asks whether the thread is there.
        assert!(CallingThread::current().interrupt(0).is_ok());
        assert!(CallingThread(1 << 23).interrupt(0).is_err());
    }
}
