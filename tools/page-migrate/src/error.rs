// SPDX-License-Identifier: MIT OR Apache-2.0

use std::io;
use std::path::PathBuf;

/// Why a call did nothing.
///
/// A call that did some of its work returns an [`Outcome`](crate::Outcome)
/// instead, even where the kernel reports `ENOMEM` or `EINTR`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The device's path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `EPERM`: the caller may not move or see this process's pages.
    #[error("not permitted")]
    NotPermitted,
    /// `ESRCH`: no such process, or it has exited.
    #[error("no such process")]
    NoSuchProcess,
    /// `EBADF`: the descriptor is not a pidfd.
    #[error("not a pidfd")]
    NotAPidfd,
    /// `EINVAL`: see the header for the list of reasons.
    #[error("invalid argument")]
    InvalidArgument,
    /// `ENODEV`: a new node is offline or has no memory, or an old node cannot
    /// exist on this machine.
    #[error("no such node, or it has no memory")]
    NoSuchNode,
    /// `ENOMEM` of a call that has no counts to report.
    #[error("out of memory")]
    OutOfMemory,
    /// `ENOTTY`: this is not the device, or an older module that lacks the call.
    #[error("not supported by this device")]
    NotSupported,
    /// Anything else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    pub(crate) fn from_errno(source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM) => Error::NotPermitted,
            Some(libc::ESRCH) => Error::NoSuchProcess,
            Some(libc::EBADF) => Error::NotAPidfd,
            Some(libc::EINVAL) => Error::InvalidArgument,
            Some(libc::ENODEV) => Error::NoSuchNode,
            Some(libc::ENOMEM) => Error::OutOfMemory,
            Some(libc::ENOTTY) => Error::NotSupported,
            _ => Error::Io(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_its_error() {
        let of = |errno| Error::from_errno(io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::EPERM), Error::NotPermitted));
        assert!(matches!(of(libc::ESRCH), Error::NoSuchProcess));
        assert!(matches!(of(libc::EBADF), Error::NotAPidfd));
        assert!(matches!(of(libc::EINVAL), Error::InvalidArgument));
        assert!(matches!(of(libc::ENODEV), Error::NoSuchNode));
        assert!(matches!(of(libc::ENOMEM), Error::OutOfMemory));
        assert!(matches!(of(libc::ENOTTY), Error::NotSupported));
        match of(libc::EFAULT) {
            Error::Io(e) => assert_eq!(e.raw_os_error(), Some(libc::EFAULT)),
            other => panic!("{other:?}"),
        }
    }
}
