// SPDX-License-Identifier: GPL-2.0

//! A device that does not answer: its calls hang in the kernel until a fatal signal comes.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use page_migrate::DEVICE_PATH;

// Of <linux/fuse.h>.
const FUSE_OPEN: u32 = 14;
const FUSE_INIT: u32 = 26;
const FUSE_IOCTL: u32 = 39;
const FUSE_KERNEL_VERSION: u32 = 7;
const FUSE_KERNEL_MINOR_VERSION: u32 = 31;
const FOPEN_NOFLUSH: u32 = 1 << 5;
/// The size of `struct fuse_init_out`.
const INIT_OUT: usize = 64;
/// The size of `struct fuse_open_out`.
const OPEN_OUT: usize = 16;
/// What every buffer for requests must hold at least.
const FUSE_MIN_READ_BUFFER: usize = 8192;

const SOON: Duration = Duration::from_secs(60);

/// The server of a FUSE file system that is nothing but one file, in the place of the device.
///
/// It lets the file be opened, and reads no request after that one unless it is told to. Where a
/// request has not been read by the server, a fatal signal ends the wait for its answer, but no
/// other signal does.
#[derive(Debug)]
pub struct StalledDevice(File);

struct Request {
    opcode: u32,
    unique: u64,
}

impl StalledDevice {
    /// The server, of which no command knows yet.
    pub fn new() -> Self {
        StalledDevice(
            File::options()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .unwrap(),
        )
    }

    /// Has a command see this device, in a mount namespace of its own.
    pub fn replace_for(&self, command: &mut Command) {
        let text = |text: &str| CString::new(text).unwrap();
        let options = format!(
            "fd={},rootmode=100644,user_id=0,group_id=0",
            self.0.as_raw_fd()
        );
        let (name, root, device) = (text("stalled"), text("/"), text(DEVICE_PATH));
        let (kind, options) = (text("fuse"), text(&options));
        let run = move || {
            let none = std::ptr::null();
            let done = |result: i32| match result {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            };
            // SAFETY: plain system calls with strings that live until they return.
            unsafe {
                done(libc::unshare(libc::CLONE_NEWNS))?;
                let private = libc::MS_REC | libc::MS_PRIVATE;
                done(libc::mount(none, root.as_ptr(), none, private, none.cast()))?;
                done(libc::mount(
                    name.as_ptr(),
                    device.as_ptr(),
                    kind.as_ptr(),
                    0,
                    options.as_ptr().cast(),
                ))
            }
        };
        // SAFETY: it makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(run) };
    }

    fn read(&self) -> Request {
        let mut buffer = vec![0; FUSE_MIN_READ_BUFFER];
        let size = (&self.0).read(&mut buffer).unwrap();
        // struct fuse_in_header: len, opcode, unique.
        assert!(size >= 40, "{size}");
        Request {
            opcode: u32::from_ne_bytes(buffer[4..8].try_into().unwrap()),
            unique: u64::from_ne_bytes(buffer[8..16].try_into().unwrap()),
        }
    }

    fn answer(&self, request: &Request, errno: i32, payload: &[u8]) {
        // struct fuse_out_header: len, error, unique.
        let mut message = Vec::new();
        let len = u32::try_from(16 + payload.len()).unwrap();
        message.extend(len.to_ne_bytes());
        message.extend((-errno).to_ne_bytes());
        message.extend(request.unique.to_ne_bytes());
        message.extend(payload);
        (&self.0).write_all(&message).unwrap();
    }

    /// Serves until the file has been opened and the first call waits for its answer.
    pub fn stall(&self) {
        loop {
            let request = self.read();
            match request.opcode {
                FUSE_INIT => {
                    // struct fuse_init_out: the version, nothing that is optional, and small writes.
                    let mut out = [0; INIT_OUT];
                    out[..4].copy_from_slice(&FUSE_KERNEL_VERSION.to_ne_bytes());
                    out[4..8].copy_from_slice(&FUSE_KERNEL_MINOR_VERSION.to_ne_bytes());
                    out[20..24].copy_from_slice(&4096u32.to_ne_bytes());
                    self.answer(&request, 0, &out);
                }
                FUSE_OPEN => {
                    // struct fuse_open_out: a handle, flags. To close the file must not wait, too.
                    let mut out = [0; OPEN_OUT];
                    out[8..12].copy_from_slice(&FOPEN_NOFLUSH.to_ne_bytes());
                    self.answer(&request, 0, &out);
                    break;
                }
                other => panic!("request {other}"),
            }
        }
        let mut waits = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout = i32::try_from(SOON.as_millis()).unwrap();
        // SAFETY: one structure, as it says.
        let ready = unsafe { libc::poll(&mut waits, 1, timeout) };
        assert_eq!(ready, 1, "no call: {}", io::Error::last_os_error());
    }

    /// Ends the call that waits, with an error.
    pub fn fail(&self, errno: i32) {
        let begin = Instant::now();
        loop {
            let request = self.read();
            if request.opcode == FUSE_IOCTL {
                self.answer(&request, errno, &[]);
                return;
            }
            assert!(begin.elapsed() < SOON, "request {}", request.opcode);
        }
    }
}

impl Default for StalledDevice {
    fn default() -> Self {
        Self::new()
    }
}
