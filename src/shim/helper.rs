// SPDX-License-Identifier: GPL-2.0

//! Helper threads: they wait in a caller's place for what may never come.
//!
//! C header: `page_migrate_shim.h`; `helper.c` says what a helper is, and what becomes of one that
//! is lost.
//!
//! Locks: that of a job's answer, a leaf.

use core::ptr::NonNull;

use kernel::{
    ffi::c_void,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

use crate::bindings;

pub(crate) use bindings::pm_asked as Asked;

/// What a job may have to wait for.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    /// The attributes of a file.
    Mark,
    /// The dirty pages of a file.
    Write,
    /// A VMA, or other tasks.
    Policy,
}

impl Wait {
    /// For no file, and by as many helpers as want.
    pub(crate) fn for_nobody(self) -> Asked {
        Asked {
            of_device: u32::MAX,
            of_user: u32::MAX,
            in_all: u32::MAX,
            wait: match self {
                Self::Mark => bindings::pm_wait_PM_WAIT_MARK,
                Self::Write => bindings::pm_wait_PM_WAIT_WRITE,
                Self::Policy => bindings::pm_wait_PM_WAIT_POLICY,
            },
            dev: 0,
            uid: 0,
        }
    }
}

/// How long to wait for a job, in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// For the job.
    pub(crate) first: u32,
    /// After that, for a helper that has been killed to notice.
    pub(crate) last: u32,
}

/// A thread that does one job after the other for one caller.
///
/// # Invariants
///
/// Points to a helper that has not been given up.
pub(crate) struct Helper(NonNull<bindings::pm_helper>);

// SAFETY: Any thread may hand jobs to a helper, one at a time, and give it up.
unsafe impl Send for Helper {}

/// How a job ended.
pub(crate) enum Ended<T> {
    /// It is done.
    Done(T),
    /// It took too long. What a killed helper has still answered is here.
    Late(Option<T>),
    /// The caller got a signal; likewise.
    Interrupted(Option<T>),
}

/// A job on its way to the thread.
///
/// `repr(C)`: the thread is given a pointer to the first field, which tells how to go on.
#[repr(C)]
struct Job<F, T> {
    /// Does the job, of which it takes the ownership; with `false` just drops it.
    ///
    /// # Safety
    ///
    /// Must be called with a pointer to the `Job<F, T>` that it is in, from `KBox::into_raw()`, once.
    take: unsafe fn(*mut c_void, bool),
    work: F,
    answer: Arc<Mutex<Option<T>>>,
}

/// See `Job::take`.
///
/// # Safety
///
/// `job` must be a `Job<F, T>` from `KBox::into_raw()` whose ownership the caller gives away.
unsafe fn take<F: FnOnce() -> T, T: Unpin>(job: *mut c_void, run: bool) {
    // SAFETY: By the requirements.
    let job = KBox::into_inner(unsafe { KBox::from_raw(job.cast::<Job<F, T>>()) });
    if run {
        let answer = (job.work)();
        *job.answer.lock() = Some(answer);
    }
}

impl Helper {
    /// Makes one. `name` is what its thread will be called, which is there once there is something to
    /// do.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        // SAFETY: `name` is a C string.
        let helper = unsafe { bindings::pm_shim_helper_new(name.as_char_ptr()) };
        // INVARIANT: It was made just now.
        NonNull::new(helper).map(Self).ok_or(ENOMEM)
    }

    /// Has `work` done, and waits for it. Returns the helper if it may be used again.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn run<F, T>(
        self,
        patience: Patience,
        asked: &Asked,
        work: F,
    ) -> Result<(Option<Self>, Ended<T>)>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + Unpin + 'static,
    {
        let answer = Arc::pin_init(new_mutex!(None), GFP_KERNEL_ACCOUNT)?;
        let job = KBox::new(
            Job {
                take: take::<F, T>,
                work,
                answer: answer.clone(),
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let job = KBox::into_raw(job).cast::<c_void>();
        // SAFETY: The helper is there by the type invariant, and has nothing to do: each run that
        // is not done gives it up. `job` is what `page_migrate_help` takes.
        let err = unsafe {
            bindings::pm_shim_helper_run(self.0.as_ptr(), job, patience.first, patience.last, asked)
        };
        if err == 0 {
            let answer = answer.lock().take().ok_or(EIO)?;
            return Ok((Some(self), Ended::Done(answer)));
        }
        drop(self);
        if err == ENOMEM.to_errno() {
            return Err(ENOMEM);
        }
        let answer = answer.lock().take();
        let ended = if err == EINTR.to_errno() {
            Ended::Interrupted(answer)
        } else {
            Ended::Late(answer)
        };
        Ok((None, ended))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; it is given up here.
        let job = unsafe { bindings::pm_shim_helper_end(self.0.as_ptr()) };
        // SAFETY: A job that the helper has not begun is as `run` made it, and ours again.
        unsafe { dispatch(job, false) };
    }
}

/// Does a job, or drops it.
///
/// # Safety
///
/// `job` must be null, or come from [`Helper::run`] and be given away by the caller.
unsafe fn dispatch(job: *mut c_void, run: bool) {
    if job.is_null() {
        return;
    }
    // SAFETY: By the requirements it is a `Job`, which begins with this function, whatever its type.
    let take = unsafe { *job.cast::<unsafe fn(*mut c_void, bool)>() };
    // SAFETY: By the requirements.
    unsafe { take(job, run) };
}

/// Does a job on a helper's thread.
///
/// # Safety
///
/// `job` must come from [`Helper::run`]; it is given away.
#[no_mangle]
unsafe extern "C" fn page_migrate_help(job: *mut c_void) {
    // SAFETY: By the requirements.
    unsafe { dispatch(job, true) };
}
