// SPDX-License-Identifier: GPL-2.0

//! Requests of callers, checked: every errno of the caller's own making comes from here.

use kernel::{
    prelude::*,
    sync::Arc,
    uaccess::UserSlice, //
};

use crate::{
    pure::{
        node_map::{
            self,
            ListError, //
        },
        order::{
            self,
            Map,
            NodeLists,
            Order,
            Range, //
        },
        units::Pages, //
    },
    shim::node,
    target::{
        Target,
        Who, //
    },
    uapi, //
};

fn who(pid: i32, flags: u32) -> Who {
    if flags & uapi::PIDFD != 0 {
        Who::PidFd(pid)
    } else {
        Who::Pid(pid)
    }
}

fn list_errno(error: ListError) -> Error {
    match error {
        ListError::NoSuchNode => ENODEV,
        ListError::Length
        | ListError::Range
        | ListError::Twice
        | ListError::AnyToAny
        | ListError::NoCandidate
        | ListError::NotAllowed => EINVAL,
    }
}

fn user_ptr(address: u64) -> Result<UserPtr> {
    Ok(UserPtr::from_addr(
        usize::try_from(address).map_err(|_| EFAULT)?,
    ))
}

fn user_slice<T>(address: u64, count: usize) -> Result<UserSlice> {
    let bytes = count.checked_mul(size_of::<T>()).ok_or(EFAULT)?;
    Ok(UserSlice::new(user_ptr(address)?, bytes))
}

fn read_list(address: u64, count: usize) -> Result<KVVec<i32>> {
    let mut reader = user_slice::<i32>(address, count)?.reader();
    let mut list = KVVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        list.push(reader.read::<i32>()?, GFP_KERNEL)?;
    }
    Ok(list)
}

/// A request to move pages that says nothing wrong, as far as it can be told without its target.
pub(crate) struct Migrate {
    range: Range,
    flags: u32,
    workers: usize,
    max_pages: u64,
    who: Who,
    old: KVVec<i32>,
    new: KVVec<i32>,
    moved_by_pair: u64,
}

impl Migrate {
    /// Reads and checks the argument of `PAGE_MIGRATE_IOC_MIGRATE`.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the argument or a list is not readable, `EINVAL` if they make no sense,
    /// `ENOMEM`.
    pub(crate) fn read(arg: usize) -> Result<Self> {
        let raw: uapi::Request = user_slice::<uapi::Request>(arg as u64, 1)?
            .reader()
            .read()?;
        let nr_nodes = node::count();
        let count = usize::try_from(raw.count)?;
        if raw.flags & !uapi::FLAGS != 0
            || raw.reserved != [0; 2]
            || count == 0
            || count > nr_nodes
            || raw.workers > uapi::MAX_WORKERS
        {
            return Err(EINVAL);
        }
        let range = Range::new(raw.va_start, raw.len)?;
        let old = read_list(raw.old_nodes, count)?;
        let new = read_list(raw.new_nodes, count)?;
        let mut seen = KVVec::from_elem(0, nr_nodes, GFP_KERNEL)?;
        node_map::check_lists(&old, &new, &mut seen).map_err(list_errno)?;
        Ok(Self {
            range,
            flags: raw.flags,
            workers: usize::try_from(raw.workers)?,
            max_pages: raw.max_pages,
            who: who(raw.pid, raw.flags),
            old,
            new,
            moved_by_pair: raw.moved_by_pair,
        })
    }

    /// Its flags.
    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }

    /// The process that it is about.
    pub(crate) fn who(&self) -> Who {
        self.who
    }

    /// Checks what depends on the target. With `self_ranges_only` a partial range must be of the
    /// caller itself.
    ///
    /// # Errors
    ///
    /// `ENODEV` if a node does not exist or has no memory, `EINVAL` if the target may not use a new
    /// node, if a wildcard has nothing to choose from, or if the range is not the caller's to
    /// give, `ENOMEM`.
    pub(crate) fn for_target(self, target: &Target, self_ranges_only: bool) -> Result<Order> {
        let size = target.mm().size();
        if self_ranges_only && !self.range.is_whole(size) && !target.mm().is_current() {
            return Err(EINVAL);
        }
        let nr_nodes = node::count();
        let pairs = KVVec::from_elem(0, nr_nodes, GFP_KERNEL)?;
        let flags = KVVec::from_elem(0, nr_nodes, GFP_KERNEL)?;
        let map = Map::new(&self.old, order::copy(&self.new)?, pairs, flags, |n| {
            node::facts(n, target.mems().knows(n), target.mems().allows(n))
        })
        .map_err(list_errno)?;
        Ok(Order {
            range: self.range.clipped(size),
            map: Arc::new(map, GFP_KERNEL_ACCOUNT)?,
            lists: NodeLists::new(self.old, self.new),
            whole: self.range.is_whole(size),
            keep_policy: self.flags & uapi::KEEP_POLICY != 0,
            new_job: self.flags & uapi::NEW_JOB != 0,
            workers: self.workers,
            max_pages: (self.max_pages > 0).then_some(Pages::new(self.max_pages)),
            dry_run: self.flags & uapi::DRY_RUN != 0,
            exclusive: self.flags & uapi::EXCLUSIVE != 0,
            strict: self.flags & uapi::STRICT != 0,
        })
    }

    /// Where the caller wants its results.
    pub(crate) fn reply(&self, arg: usize) -> Result<Reply> {
        Ok(Reply {
            result: field(arg, core::mem::offset_of!(uapi::Request, result))?,
            by_pair: self.moved_by_pair,
            pairs: self.old.len(),
        })
    }
}

/// The address of a field of the argument.
fn field(arg: usize, offset: usize) -> Result<u64> {
    Ok(arg.checked_add(offset).ok_or(EFAULT)? as u64)
}

/// Writes the result of a call for which there was no memory before it began: that nothing has been
/// done, and to begin at `va_start` again.
///
/// # Errors
///
/// `EFAULT`.
pub(crate) fn tell_nothing_done(arg: usize) -> Result {
    let raw: uapi::Request = user_slice::<uapi::Request>(arg as u64, 1)?
        .reader()
        .read()?;
    let reply = Reply {
        result: field(arg, core::mem::offset_of!(uapi::Request, result))?,
        by_pair: raw.moved_by_pair,
        pairs: usize::try_from(raw.count)?.min(node::count()),
    };
    let nothing = uapi::CallResult {
        resume_va: raw.va_start,
        ..uapi::CallResult::default()
    };
    reply.clear_pairs()?;
    write_result(reply.result, &nothing)
}

fn write_result(address: u64, result: &uapi::CallResult) -> Result {
    user_slice::<uapi::CallResult>(address, 1)?
        .writer()
        .write(result)
}

/// Where the results of a call go.
pub(crate) struct Reply {
    result: u64,
    by_pair: u64,
    pairs: usize,
}

impl Reply {
    /// Makes sure that the results can be written, before anything moves. Leaves zeros in the counts
    /// of the pairs.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub(crate) fn probe(&self) -> Result {
        self.clear_pairs()?;
        // What is there stays until there is something to say.
        let before = user_slice::<uapi::CallResult>(self.result, 1)?
            .reader()
            .read()?;
        write_result(self.result, &before)
    }

    fn clear_pairs(&self) -> Result {
        if self.by_pair != 0 {
            let mut writer = user_slice::<u64>(self.by_pair, self.pairs)?.writer();
            for _ in 0..self.pairs {
                writer.write(&0u64)?;
            }
        }
        Ok(())
    }

    /// Writes the results.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the caller has taken the memory away since the call began.
    pub(crate) fn write(&self, result: &uapi::CallResult, by_pair: &[Pages]) -> Result {
        if self.by_pair != 0 {
            let mut writer = user_slice::<u64>(self.by_pair, self.pairs)?.writer();
            for pages in by_pair {
                writer.write(&pages.get())?;
            }
        }
        write_result(self.result, result)
    }
}

/// A request to count pages.
pub(crate) struct Placement {
    /// The process that it is about.
    pub(crate) who: Who,
    /// The range, as the caller gave it.
    pub(crate) range: Range,
    pages: u64,
    count: usize,
}

impl Placement {
    /// Reads and checks the argument of `PAGE_MIGRATE_IOC_PLACEMENT`.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the argument is not readable, `EINVAL` if it makes no sense.
    pub(crate) fn read(arg: usize) -> Result<Self> {
        let raw: uapi::Placement = user_slice::<uapi::Placement>(arg as u64, 1)?
            .reader()
            .read()?;
        let count = usize::try_from(raw.count)?;
        if raw.flags & !uapi::PIDFD != 0
            || raw.reserved0 != 0
            || raw.reserved != [0; 3]
            || count < node::count()
        {
            return Err(EINVAL);
        }
        Ok(Self {
            who: who(raw.pid, raw.flags),
            range: Range::new(raw.va_start, raw.len)?,
            pages: raw.pages,
            count,
        })
    }

    /// Writes the counts, and 0 for entries beyond the last node.
    ///
    /// # Errors
    ///
    /// `EFAULT`, or `EINTR` if a signal came: `count` may be large.
    pub(crate) fn write(&self, pages: &[Pages]) -> Result {
        let mut writer = user_slice::<u64>(self.pages, self.count)?.writer();
        for count in pages {
            writer.write(&count.get())?;
        }
        let zeros = [0u8; 512];
        while !writer.is_empty() {
            if current!().signal_pending() {
                return Err(EINTR);
            }
            let len = writer.len().min(zeros.len());
            writer.write_slice(zeros.get(..len).unwrap_or(&zeros))?;
        }
        Ok(())
    }
}
