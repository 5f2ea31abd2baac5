// SPDX-License-Identifier: MIT OR Apache-2.0

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::{uapi, Counts, Error, Node, Outcome, Placement, Range, Request, Stop, Target};

/// Where the module puts its device.
pub const DEVICE_PATH: &str = "/dev/page_migrate";

/// The kernel's base page size in bytes.
pub fn page_size() -> u64 {
    // SAFETY: sysconf() only reads its argument.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// A pidfd of a process, for [`Target::Pidfd`].
pub fn open_pidfd(pid: i32) -> Result<OwnedFd, Error> {
    // SAFETY: pidfd_open() takes two integers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us; nothing
        // else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::from_errno(io::Error::last_os_error())),
    }
}

/// What the module can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Node numbers are below this.
    pub max_nodes: u32,
    /// The largest number of workers.
    pub max_workers: u32,
    /// Every flag that the module knows, as bits.
    pub flags: u64,
}

impl Info {
    /// The names of the flags. A bit without a name is a number.
    pub fn flag_names(&self) -> Vec<String> {
        (0..u64::BITS)
            .filter(|bit| self.flags & (1 << bit) != 0)
            .map(|bit| match bit {
                0 => "PIDFD".into(),
                1 => "DRY_RUN".into(),
                2 => "KEEP_POLICY".into(),
                3 => "EXCLUSIVE".into(),
                4 => "NEW_JOB".into(),
                5 => "STRICT".into(),
                other => format!("bit {other}"),
            })
            .collect()
    }
}

/// The opened device. One open file is one migration job.
#[derive(Debug)]
pub struct Device {
    file: File,
}

impl Device {
    /// Opens [`DEVICE_PATH`].
    pub fn open() -> Result<Self, Error> {
        Self::open_at(DEVICE_PATH)
    }

    /// Opens the device under another name.
    pub fn open_at(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = OpenOptions::new()
            .read(true)
            .open(path)
            .map_err(|source| Error::Open {
                path: path.to_owned(),
                source,
            })?;
        Ok(Device { file })
    }

    /// What the module can do.
    pub fn info(&self) -> Result<Info, Error> {
        let mut arg = uapi::Info::default();
        // SAFETY: INFO writes one `struct page_migrate_info`, which `arg` is.
        unsafe { self.ioctl(uapi::IOC_INFO, &mut arg) }.map_err(Error::from_errno)?;
        Ok(Info {
            max_nodes: arg.max_nodes,
            max_workers: arg.max_workers,
            flags: arg.flags,
        })
    }

    /// Moves pages.
    ///
    /// An open device is one job: as long as its calls have the same pairs, a
    /// page that one of them has moved does not move again in another, whatever
    /// process, address or mapping it is met through.
    pub fn migrate(&self, request: &Request<'_>) -> Result<Outcome, Error> {
        let raw = |node: Node| match node {
            Node::Any => Ok(uapi::NODE_ANY),
            Node::Id(id) => i32::try_from(id).map_err(|_| Error::InvalidArgument),
        };
        let old: Vec<i32> = request
            .pairs
            .iter()
            .map(|p| raw(p.old))
            .collect::<Result<_, _>>()?;
        let new: Vec<i32> = request
            .pairs
            .iter()
            .map(|p| raw(p.new))
            .collect::<Result<_, _>>()?;
        let mut moved_by_pair = vec![0u64; old.len()];
        let (pid, target_flag) = raw_target(request.target);
        let mut arg = uapi::Request {
            pid,
            flags: request.flags | target_flag,
            va_start: request.range.start,
            len: request.range.len,
            count: u32::try_from(old.len()).map_err(|_| Error::InvalidArgument)?,
            workers: request.workers,
            old_nodes: old.as_ptr() as u64,
            new_nodes: new.as_ptr() as u64,
            moved_by_pair: moved_by_pair.as_mut_ptr() as u64,
            max_pages: request.max_pages,
            ..uapi::Request::default()
        };
        // SAFETY: `arg` is a `struct page_migrate_request`; its three lists
        // have `count` entries each and live until the call returns.
        let (returned, stop) = match unsafe { self.ioctl(uapi::IOC_MIGRATE, &mut arg) } {
            Ok(returned) if is_at_limit(&arg) => (returned, Stop::Limit),
            Ok(returned) => (returned, Stop::Returned),
            Err(e) => match e.raw_os_error() {
                Some(libc::EINTR) => (0, Stop::Interrupted),
                Some(libc::ENOMEM) if arg.result.no_memory > 0 => (0, Stop::NoRoom),
                Some(libc::ENOMEM) => (0, Stop::OutOfMemory),
                _ => return Err(Error::from_errno(e)),
            },
        };
        Ok(Outcome {
            counts: Counts::from(&arg.result),
            moved_by_pair,
            returned: u64::from(returned),
            stop,
            resume_va: arg.result.resume_va,
        })
    }

    /// Makes every check that [`migrate()`](Self::migrate) would make for this
    /// request, and nothing else.
    pub fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let request = request.clone().dry_run(true);
        let nothing = Range { start: 0, len: 0 };
        match self.migrate(&request.clone().range(nothing)) {
            // A module with self_ranges_only=1 allows nothing but the whole.
            Err(Error::InvalidArgument) => self.migrate(&request).map(drop),
            done => done.map(drop),
        }
    }

    /// Counts the pages of a range on each node.
    pub fn placement(&self, target: Target<'_>, range: Range) -> Result<Placement, Error> {
        let max_nodes = self.info()?.max_nodes;
        let mut pages = vec![0u64; usize::try_from(max_nodes).unwrap_or(0)];
        let (pid, flags) = raw_target(target);
        let mut arg = uapi::Placement {
            pid,
            flags,
            va_start: range.start,
            len: range.len,
            count: max_nodes,
            pages: pages.as_mut_ptr() as u64,
            ..uapi::Placement::default()
        };
        // SAFETY: `arg` is a `struct page_migrate_placement`, and its `pages`
        // points to `count` numbers that live until the call returns.
        unsafe { self.ioctl(uapi::IOC_PLACEMENT, &mut arg) }.map_err(Error::from_errno)?;
        Ok(Placement { pages })
    }

    /// # Safety
    ///
    /// `arg` must be the structure that `number` stands for, and every address
    /// in it valid for what the call does there.
    unsafe fn ioctl<T>(&self, number: u32, arg: &mut T) -> io::Result<u32> {
        // SAFETY: the descriptor is open; the caller vouches for `arg`.
        let returned = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                libc::Ioctl::from(number),
                std::ptr::from_mut(arg),
            )
        };
        u32::try_from(returned).map_err(|_| io::Error::last_os_error())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn is_at_limit(arg: &uapi::Request) -> bool {
    let moved = arg.result.moved.saturating_add(arg.result.moved_fallback);
    arg.max_pages > 0 && moved >= arg.max_pages
}

fn raw_target(target: Target<'_>) -> (i32, u32) {
    match target {
        Target::Myself => (0, 0),
        Target::Pid(pid) => (pid, 0),
        Target::Pidfd(fd) => (fd.as_raw_fd(), uapi::PIDFD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_says_its_name() {
        let e = Device::open_at("/nonexistent/page_migrate").unwrap_err();
        match &e {
            Error::Open { source, .. } => assert_eq!(source.kind(), io::ErrorKind::NotFound),
            other => panic!("{other:?}"),
        }
        assert!(e.to_string().contains("/nonexistent/page_migrate"));
    }

    #[test]
    fn another_device_is_not_supported() {
        let device = Device::open_at("/dev/null").unwrap();
        assert!(matches!(device.info(), Err(Error::NotSupported)));
        let request = Request::new(Target::Myself).pair(0, 1);
        assert!(matches!(device.migrate(&request), Err(Error::NotSupported)));
    }

    #[test]
    fn names_of_flags() {
        let info = Info {
            max_nodes: 4,
            max_workers: 1,
            flags: 0b10_1011 | (1 << 40),
        };
        assert_eq!(
            info.flag_names(),
            ["PIDFD", "DRY_RUN", "EXCLUSIVE", "STRICT", "bit 40"]
        );
    }

    #[test]
    fn pidfds() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(open_pidfd(me).is_ok());
        // Above every possible pid_max.
        assert!(matches!(open_pidfd(1 << 23), Err(Error::NoSuchProcess)));
    }
}
