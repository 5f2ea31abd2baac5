// SPDX-License-Identifier: GPL-2.0

//! Mapped files.

use core::ptr::NonNull;

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::bindings;

/// Tells files apart for as long as a [`MappedFile`] is held. Never dereferenced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InodeId(pub(super) usize);

/// A file that a process maps.
///
/// # Invariants
///
/// Holds a reference to an open file.
pub(crate) struct MappedFile(NonNull<bindings::file>);

impl MappedFile {
    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `file` must be an open file with a reference that the caller gives away.
    pub(super) unsafe fn from_raw(file: NonNull<bindings::file>) -> Self {
        // INVARIANT: By the requirements.
        Self(file)
    }

    pub(super) fn as_raw(&self) -> *mut bindings::file {
        self.0.as_ptr()
    }

    /// The identity of the file behind it.
    pub(crate) fn inode(&self) -> InodeId {
        // SAFETY: By the type invariant the file is open.
        InodeId(unsafe { bindings::pm_shim_file_inode(self.0.as_ptr()) } as usize)
    }

    /// Reads an extended attribute into `value` and returns its length.
    ///
    /// No permission of the caller is asked for: a mark belongs to the file's owner. May sleep for
    /// as long as the file system likes.
    ///
    /// # Errors
    ///
    /// `ENODATA` or `EOPNOTSUPP` if there is none, `ERANGE` if it is larger than `value`, and
    /// whatever the file system has to say.
    pub(crate) fn xattr(&self, name: &CStr, value: &mut [u8]) -> Result<usize> {
        // SAFETY: The file is open by the type invariant, `name` is a C string, and `value` is
        // writable for its length.
        let len = unsafe {
            bindings::pm_shim_file_xattr(
                self.0.as_ptr(),
                name.as_char_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        usize::try_from(len).or_else(|_| {
            to_result(i32::try_from(len).unwrap_or(EIO.to_errno()))?;
            Ok(0)
        })
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant.
        unsafe { bindings::pm_shim_file_put(self.0.as_ptr()) };
    }
}
