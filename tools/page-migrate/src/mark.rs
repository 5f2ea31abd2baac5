// SPDX-License-Identifier: MIT OR Apache-2.0

//! Marks on files: extended attributes that keep the pages of a file where
//! they are.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whose mark it is. `Trusted` needs `CAP_SYS_ADMIN` and wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// `user.migrate`
    User,
    /// `trusted.migrate`
    Trusted,
}

impl Namespace {
    /// The name of the extended attribute.
    pub fn attribute(self) -> &'static str {
        match self {
            Namespace::User => "user.migrate",
            Namespace::Trusted => "trusted.migrate",
        }
    }

    fn c_name(self) -> &'static CStr {
        match self {
            Namespace::User => c"user.migrate",
            Namespace::Trusted => c"trusted.migrate",
        }
    }
}

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing that is mapped from this file moves, private copies included.
    None,
    /// The file's own pages stay in mappings without write permission.
    Lib,
}

impl Mark {
    /// The attribute's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Mark::None => "none",
            Mark::Lib => "lib",
        }
    }

    /// What the kernel makes of a value: `None` for one that means nothing.
    pub fn from_value(value: &[u8]) -> Option<Self> {
        [Mark::None, Mark::Lib]
            .into_iter()
            .find(|m| value.eq_ignore_ascii_case(m.as_str().as_bytes()))
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Marks a file.
pub fn set(path: &Path, namespace: Namespace, mark: Mark) -> io::Result<()> {
    let path = c_path(path)?;
    let value = mark.as_str().as_bytes();
    // SAFETY: both names end with a NUL, and `value` is as long as we say.
    check(unsafe {
        libc::setxattr(
            path.as_ptr(),
            namespace.c_name().as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    })
}

/// Takes a file's mark away. No mark is no error.
pub fn clear(path: &Path, namespace: Namespace) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: both names end with a NUL.
    match check(unsafe { libc::removexattr(path.as_ptr(), namespace.c_name().as_ptr()) }) {
        Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(()),
        other => other,
    }
}

/// The raw value of a file's mark, if it has one. `trusted.migrate` is only
/// visible to those who may set it.
pub fn get(path: &Path, namespace: Namespace) -> io::Result<Option<Vec<u8>>> {
    let path = c_path(path)?;
    // The largest value that an extended attribute can have.
    let mut value = vec![0u8; 65536];
    // SAFETY: both names end with a NUL, and `value` is as long as we say.
    let len = unsafe {
        libc::getxattr(
            path.as_ptr(),
            namespace.c_name().as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    match usize::try_from(len) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(_) => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENODATA) => Ok(None),
            e => Err(e),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_the_kernel_reads_them() {
        assert_eq!(Mark::from_value(b"none"), Some(Mark::None));
        assert_eq!(Mark::from_value(b"LiB"), Some(Mark::Lib));
        for other in [&b"none\n"[..], b"none\0", b"", b"libs", b" lib"] {
            assert_eq!(Mark::from_value(other), None, "{other:?}");
        }
    }

    #[test]
    fn errors_are_passed_on() {
        let missing = Path::new("/nonexistent/file");
        for e in [
            set(missing, Namespace::User, Mark::Lib).unwrap_err(),
            clear(missing, Namespace::User).unwrap_err(),
            get(missing, Namespace::User).unwrap_err(),
        ] {
            assert_eq!(e.kind(), io::ErrorKind::NotFound);
        }
        let nul = Path::new("a\0b");
        assert_eq!(
            get(nul, Namespace::User).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
