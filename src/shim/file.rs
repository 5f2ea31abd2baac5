// SPDX-License-Identifier: GPL-2.0

//! Mapped files.

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::{
    bindings,
    shim::helper::{
        Asked,
        Wait, //
    }, //
};

/// Tells files apart, though none is held. Never dereferenced.
///
/// An inode that gets the place of another one in memory is from another file system, or has another
/// number, or another generation: numbers that are used again come with a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InodeId {
    at: usize,
    ino: u64,
    generation: u32,
    dev: u32,
}

impl InodeId {
    /// What the shim tells of a file, `None` if there is none.
    pub(super) fn from_raw(facts: &bindings::pm_inode) -> Option<Self> {
        (facts.at != 0).then(|| Self::new(facts))
    }

    fn new(facts: &bindings::pm_inode) -> Self {
        Self {
            at: facts.at,
            ino: facts.ino,
            generation: facts.generation,
            dev: facts.dev,
        }
    }
}

/// A file that a process maps, or has mapped.
///
/// # Invariants
///
/// Holds references to the mount and to the name of a file, and with them to its inode; to those of
/// the file whose pages are mapped, which is another one on stacked file systems; and to the
/// credentials of who opened it.
pub(crate) struct MappedFile(bindings::pm_file);

// SAFETY: The references may be used and given up by any thread.
unsafe impl Send for MappedFile {}

impl MappedFile {
    /// Takes over what the shim holds, `None` if that is nothing.
    ///
    /// # Safety
    ///
    /// `held` must be empty, or hold references that the caller gives away.
    pub(super) unsafe fn from_raw(held: bindings::pm_file) -> Option<Self> {
        // INVARIANT: By the requirements.
        (!held.opener.is_null()).then(|| Self(held))
    }

    pub(super) fn as_raw(&self) -> *const bindings::pm_file {
        &raw const self.0
    }

    /// The identity of the file.
    pub(crate) fn inode(&self) -> InodeId {
        let mut facts = bindings::pm_inode::default();
        // SAFETY: The file is held by the type invariant, and `facts` is writable.
        unsafe { bindings::pm_shim_file_inode(self.as_raw(), &mut facts) };
        InodeId::new(&facts)
    }

    /// Whom its file system may have to wait for.
    pub(crate) fn asked(&self, wait: Wait) -> Asked {
        let mut asked = wait.for_nobody();
        // SAFETY: The file is held by the type invariant, and `asked` is writable.
        unsafe { bindings::pm_shim_file_asked(self.as_raw(), &mut asked) };
        asked
    }

    /// Whether its attributes are in memory, so that nobody has to be waited for.
    pub(crate) fn is_in_memory(&self) -> bool {
        // SAFETY: The file is held by the type invariant.
        unsafe { bindings::pm_shim_file_is_in_memory(self.as_raw()) }
    }

    /// Whether a server has to be waited for to read its attributes.
    pub(crate) fn is_served(&self) -> bool {
        // SAFETY: The file is held by the type invariant.
        unsafe { bindings::pm_shim_file_is_served(self.as_raw()) }
    }

    /// Has its dirty pages written, or begins with that. May sleep for as long as the file system
    /// likes.
    pub(crate) fn write_back(&self) {
        // SAFETY: The file is held by the type invariant.
        unsafe { bindings::pm_shim_file_write_back(self.as_raw()) };
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
        // SAFETY: The file is held by the type invariant, `name` is a C string, and `value` is
        // writable for its length.
        let len = unsafe {
            bindings::pm_shim_file_xattr(
                self.as_raw(),
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
        // SAFETY: The references are ours by the type invariant.
        unsafe { bindings::pm_shim_file_put(&mut self.0) };
    }
}
