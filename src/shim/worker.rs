// SPDX-License-Identifier: GPL-2.0

//! Threads of the kernel that work for a call beside it.
//!
//! Locks: the list of what is done has a spinlock, under which nothing else is locked.

use core::ptr::NonNull;

use kernel::{
    prelude::*,
    sync::{
        new_condvar,
        new_spinlock,
        Arc,
        CondVar,
        SpinLock, //
    },
    workqueue::{
        self,
        impl_has_work,
        new_work,
        RawWorkItem,
        WorkItem, //
    },
};

use crate::{
    bindings,
    pure::units::NodeId, //
};

/// What a thread can work on.
pub(crate) trait Work: Send + 'static {
    /// Works on it, on a thread that no cpuset confines.
    fn work(&mut self);
}

/// The memory control group that pays for what a thread allocates.
///
/// # Invariants
///
/// Holds a reference to the group; `None` is none.
struct Payer(Option<NonNull<bindings::mem_cgroup>>);

// SAFETY: The reference may be used and put on any thread.
unsafe impl Send for Payer {}
// SAFETY: The group is only pointed to.
unsafe impl Sync for Payer {}

impl Payer {
    /// That of the caller.
    fn caller() -> Self {
        // SAFETY: It is always fine to ask.
        let memcg = unsafe { bindings::pm_shim_payer_get() };
        // INVARIANT: The reference is ours.
        Self(NonNull::new(memcg))
    }

    fn raw(&self) -> *mut bindings::mem_cgroup {
        self.0.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    /// Has it pay for what `f` allocates.
    fn pays(&self, f: impl FnOnce()) {
        // SAFETY: The group is alive by the type invariant.
        let before = unsafe { bindings::pm_shim_payer_set(self.raw()) };
        f();
        // SAFETY: It was set before, and whoever set it holds it.
        unsafe { bindings::pm_shim_payer_set(before) };
    }
}

impl Drop for Payer {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant.
        unsafe { bindings::pm_shim_payer_put(self.raw()) };
    }
}

type Parcels<W> = KVVec<Pin<KBox<Parcel<W>>>>;

/// What a thread works on, as it is handed over and back.
#[pin_data]
struct Parcel<W: Work> {
    #[pin]
    work: workqueue::Work<Parcel<W>>,
    inside: W,
    done: Arc<Done<W>>,
}

impl_has_work! {
    impl{W: Work} HasWork<Parcel<W>> for Parcel<W> { self.work }
}

impl<W: Work> Parcel<W> {
    fn new(inside: W, done: Arc<Done<W>>) -> Result<Pin<KBox<Self>>> {
        let parcel = pin_init!(Self {
            work <- new_work!("page_migrate::Parcel"),
            inside,
            done,
        });
        KBox::pin_init(parcel, GFP_KERNEL_ACCOUNT)
    }

    fn inside(self: Pin<&mut Self>) -> &mut W {
        self.project().inside
    }
}

impl<W: Work> WorkItem for Parcel<W> {
    type Pointer = Pin<KBox<Self>>;

    fn run(mut this: Self::Pointer) {
        let done = this.done.clone();
        done.payer.pays(|| this.as_mut().inside().work());
        // There is room for all.
        let pushed = done.parcels.lock().push_within_capacity(this);
        drop(pushed);
        done.came.notify_one();
    }
}

/// Parcels on which the work is done.
#[pin_data]
struct Done<W: Work> {
    #[pin]
    parcels: SpinLock<Parcels<W>>,
    #[pin]
    came: CondVar,
    payer: Payer,
}

/// Threads of the kernel that work for a call, each on a thing of its own.
///
/// Whoever drops it waits for those that work.
pub(crate) struct Crew<W: Work> {
    idle: Parcels<W>,
    working: usize,
    done: Arc<Done<W>>,
}

impl<W: Work> Crew<W> {
    /// As many threads as `make` is to be called times, for what each of them works on.
    ///
    /// # Errors
    ///
    /// That of `make`, or `ENOMEM`.
    pub(crate) fn new(size: usize, mut make: impl FnMut() -> Result<W>) -> Result<Self> {
        let gfp = GFP_KERNEL_ACCOUNT;
        let parcels = Parcels::with_capacity(size, gfp)?;
        let done = pin_init!(Done {
            parcels <- new_spinlock!(parcels, "page_migrate::Done"),
            came <- new_condvar!("page_migrate::Done"),
            payer: Payer::caller(),
        });
        let mut crew = Self {
            idle: Parcels::with_capacity(size, gfp)?,
            working: 0,
            done: Arc::pin_init(done, gfp)?,
        };
        for _ in 0..size {
            crew.idle
                .push(Parcel::new(make()?, crew.done.clone())?, gfp)?;
        }
        Ok(crew)
    }

    /// What those that are idle have worked on.
    pub(crate) fn idle(&mut self) -> impl Iterator<Item = &mut W> {
        self.idle.iter_mut().map(|parcel| parcel.as_mut().inside())
    }

    /// Has an idle thread, if there is one, work on what `fill` makes of its thing, near the CPUs of `node` if
    /// it has some.
    pub(crate) fn begin(&mut self, node: Option<NodeId>, fill: impl FnOnce(&mut W)) {
        let Some(mut parcel) = self.idle.pop() else {
            return;
        };
        fill(parcel.as_mut().inside());
        self.working = self.working.saturating_add(1);
        let near = node.and_then(|node| i32::try_from(node.get()).ok());
        let enqueue = |work: *mut kernel::bindings::work_struct| {
            // SAFETY: The caller of this closure sees to it that the work stays until it runs.
            unsafe { bindings::pm_shim_queue_work(work.cast(), near.unwrap_or(-1)) }
        };
        // SAFETY: Its work is in no queue, as the parcel was here; so queueing it succeeds. It has no
        // lifetimes, and may be sent to another thread.
        unsafe { parcel.__enqueue(enqueue) };
    }

    /// Whether none is idle.
    pub(crate) fn is_busy(&self) -> bool {
        self.idle.is_empty()
    }

    /// Waits until a thread has done its work, and returns what it worked on; `None` if none works.
    pub(crate) fn wait(&mut self) -> Option<&mut W> {
        self.working = self.working.checked_sub(1)?;
        let mut parcels = self.done.parcels.lock();
        let parcel = loop {
            match parcels.pop() {
                Some(parcel) => break parcel,
                None => self.done.came.wait(&mut parcels),
            }
        };
        drop(parcels);
        // There is room for all.
        drop(self.idle.push_within_capacity(parcel));
        self.idle().last()
    }
}

impl<W: Work> Drop for Crew<W> {
    fn drop(&mut self) {
        while self.wait().is_some() {}
    }
}
