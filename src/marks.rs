// SPDX-License-Identifier: GPL-2.0

//! Marks on files: extended attributes that say what stays.
//!
//! An attribute is never read under mmap_lock: a file system may take locks that stand before it,
//! or ask a server that needs the very address space. Nor does the caller wait for it without an end.

use kernel::{
    prelude::*,
    rbtree::RBTree, //
};

use crate::{
    questions::Questions,
    shim::{
        file::{
            InodeId,
            MappedFile, //
        },
        helper::Wait, //
    }, //
};

/// What may move of a mapping.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Everything.
    Migratable,
    /// All but the file's own pages in mappings without write permission.
    Lib,
    /// Nothing.
    None,
    /// Nobody can tell: the file system reports an error, or does not answer.
    Unknown,
}

impl Mark {
    /// Whether a page stays. `anon`: it is a private copy. `writable`: its mapping is.
    pub(crate) fn exempts(self, anon: bool, writable: bool) -> bool {
        match self {
            Self::Migratable | Self::Unknown => false,
            Self::Lib => !anon && !writable,
            Self::None => true,
        }
    }

    fn from_value(value: &[u8]) -> Self {
        if value.eq_ignore_ascii_case(b"none") {
            Self::None
        } else if value.eq_ignore_ascii_case(b"lib") {
            Self::Lib
        } else {
            Self::Migratable
        }
    }

    /// Reads the mark of a file. May sleep for as long as the file system likes.
    fn read(file: &MappedFile) -> Self {
        for name in [c"trusted.migrate", c"user.migrate"] {
            // Longer values are no marks, whatever they are.
            let mut value = [0; 64];
            match file.xattr(name, &mut value) {
                Ok(len) => return Self::from_value(value.get(..len).unwrap_or_default()),
                Err(e) if e == ERANGE => return Self::Migratable,
                // Not set, or the file system has no attributes of this kind.
                Err(e) if e == ENODATA || e == EOPNOTSUPP => {}
                Err(_) => return Self::Unknown,
            }
        }
        Self::Migratable
    }
}

/// The marks of the files that one call has met.
///
/// No file is held: what the target gives up is gone, with its memory.
pub(crate) struct Marks {
    questions: Questions,
    known: RBTree<InodeId, Mark>,
    /// How often one was added to `known`.
    added: u32,
    last: Option<InodeId>,
}

/// Files whose marks are known at a time. A target may map ever new ones ahead of the walk.
const MAX_KNOWN: u32 = 4096;

impl Marks {
    /// Knows no file yet.
    pub(crate) fn new() -> Self {
        Self {
            questions: Questions::new(),
            known: RBTree::new(),
            added: 0,
            last: None,
        }
    }

    /// The mark of a file, `None` if it has not been read. Neither sleeps nor allocates.
    pub(crate) fn get(&self, inode: InodeId) -> Option<Mark> {
        self.known.get(&inode).copied()
    }

    /// Whether the mark of one more file can be remembered without forgetting others.
    pub(crate) fn has_room(&self) -> bool {
        self.added < MAX_KNOWN
    }

    /// Reads the mark of a file, and gives the file up.
    ///
    /// `instead`: the last one that was read was of no use. It is forgotten, so that a target that
    /// maps ever new files does not have them all remembered.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or `EINTR` if a signal came while the file system was asked.
    pub(crate) fn learn(&mut self, file: MappedFile, instead: bool) -> Result {
        let inode = file.inode();
        let mark = if file.is_in_memory() {
            Mark::read(&file)
        } else {
            self.questions
                .ask(file, Wait::Mark, Mark::read)?
                .unwrap_or(Mark::Unknown)
        };
        if let Some(last) = self.last.replace(inode).filter(|_| instead) {
            self.known.remove(&last);
        }
        // To read them anew costs no more than time.
        if self.added >= MAX_KNOWN {
            self.known = RBTree::new();
            self.added = 0;
        }
        self.added = self.added.saturating_add(1);
        self.known
            .try_create_and_insert(inode, mark, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    /// Has the dirty pages of a file written, so that a later call can move them: some file systems
    /// let go of a page only when it has been written, and write only for whoever waits. Returns whether
    /// that came to its end.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or `EINTR` if a signal came.
    pub(crate) fn write_back(&mut self, file: MappedFile) -> Result<bool> {
        let written = self
            .questions
            .ask(file, Wait::Write, MappedFile::write_back)?;
        Ok(written.is_some())
    }
}
