// SPDX-License-Identifier: GPL-2.0

//! `/dev/page_migrate`: its registration, and the dispatch of its ioctls.

use kernel::{
    error::to_result,
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    types::Opaque,
    uaccess::UserSlice, //
};

use crate::{
    job::{
        self,
        End,
        Outcome,
        Progress,
        Remembered, //
    },
    pure::order::Order,
    request,
    shim::{
        self,
        mutex::KillableMutex, //
        node,
        task,
        trace,
    },
    target::Target,
    uapi, //
};

/// Everybody may open the device: each call checks its own permission.
const MODE: u16 = 0o666;

/// The registered device.
///
/// [`MiscDeviceRegistration`] knows no mode, and the node in `/dev` is made while a device is being
/// registered. In Linux 7.2 it knows no owner either: then an open file would not keep the module. So
/// this registers the same C structures, with both filled in.
///
/// # Invariants
///
/// `inner` is registered by `misc_register()`, comes from [`MiscDeviceOptions::into_raw`], and has
/// `fops` as its operations.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration {
    #[pin]
    inner: Opaque<kernel::bindings::miscdevice>,
    fops: KBox<kernel::bindings::file_operations>,
}

// SAFETY: A device may be deregistered on any thread.
unsafe impl Send for Registration {}
// SAFETY: There is nothing to be done with a shared reference.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers the device. Its open files keep `module`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(module: &'static ThisModule) -> Result<impl PinInit<Self, Error>> {
        let options = MiscDeviceOptions {
            name: c"page_migrate",
        };
        let mut device = options.into_raw::<Handle>();
        // SAFETY: It points to the operations of `Handle`, which are a constant.
        let fops = unsafe { *device.fops };
        let mut fops = KBox::new(fops, GFP_KERNEL)?;
        fops.owner = module.as_ptr();
        device.fops = &raw const *fops;
        device.mode = MODE;
        Ok(try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(move |slot: *mut kernel::bindings::miscdevice| {
                // SAFETY: The initializer can write to the slot.
                unsafe { slot.write(device) };
                // SAFETY: The slot is pinned, and deregistered before it goes.
                to_result(unsafe { kernel::bindings::misc_register(slot) })
            }),
            // It stays where it is while the box moves.
            fops,
        }? Error))
    }
}

#[pinned_drop]
impl PinnedDrop for Registration {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The device is registered by the type invariant.
        unsafe { kernel::bindings::misc_deregister(self.inner.get()) };
    }
}

/// An open file of the device: one job at a time.
#[pin_data]
struct Handle {
    progress: Progress,
    #[pin]
    remembered: KillableMutex<Remembered>,
}

#[vtable]
impl MiscDevice for Handle {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _device: &MiscDeviceRegistration<Self>) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                progress: Progress::new(),
                remembered <- KillableMutex::new(Remembered::default()),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn ioctl(me: Pin<&Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::IOC_INFO => info(arg),
            uapi::IOC_MIGRATE => me.migrate(arg),
            uapi::IOC_PLACEMENT => placement(arg),
            _ => Err(ENOTTY),
        }
    }

    fn show_fdinfo(me: Pin<&Self>, m: &SeqFile, _file: &File) {
        let [moved, left, va, running] = me.progress.read();
        seq_print!(
            m,
            "moved:\t{}\nleft:\t{}\nva:\t{:#x}\nrunning:\t{}\n",
            moved,
            left,
            va,
            running.min(1)
        );
    }
}

/// IOCTL: what this module can do.
fn info(arg: usize) -> Result<isize> {
    let info = uapi::Info {
        max_nodes: u32::try_from(node::count())?,
        max_workers: uapi::MAX_WORKERS,
        flags: u64::from(uapi::FLAGS),
        reserved: [0; 6],
    };
    UserSlice::new(UserPtr::from_addr(arg), size_of::<uapi::Info>())
        .writer()
        .write(&info)?;
    Ok(0)
}

/// IOCTL: count the pages on each node.
fn placement(arg: usize) -> Result<isize> {
    let request = request::Placement::read(arg)?;
    let target = Target::find(request.who)?;
    let range = request.range.clipped(target.mm().size());
    let pages = job::census(range, &target)?;
    request.write(&pages)?;
    Ok(0)
}

/// A call that got to work, and what came of it.
struct Done {
    target: Target,
    order: Order,
    reply: request::Reply,
    flags: u32,
    begun: Option<trace::Begun>,
    outcome: Outcome,
}

impl Handle {
    /// IOCTL: move pages.
    fn migrate(&self, arg: usize) -> Result<isize> {
        match self.work(arg) {
            Ok(done) => done.tell(),
            Err(e) => {
                if e == ENOMEM || e == EINTR {
                    // Callers read the result after these errors. A second error would only hide
                    // the first.
                    let _ = request::tell_nothing_done(arg);
                }
                Err(e)
            }
        }
    }

    /// Checks everything, then moves.
    ///
    /// The caller decides how long its memory takes to be there, and how long its turn takes to come.
    /// So both come first: what is checked of the target must not be old when the work begins.
    ///
    /// # Errors
    ///
    /// That of the first check that fails, or `ENOMEM`. Nothing has been done then.
    fn work(&self, arg: usize) -> Result<Done> {
        let request = request::Migrate::read(arg)?;
        let reply = request.reply(arg)?;
        reply.probe()?;
        let mut remembered = self.remembered.take()?;
        let mut target = Target::find(request.who())?;
        let flags = request.flags();
        let order = request.for_target(&target, shim::self_ranges_only())?;
        let begun = trace::Begun::call();
        let outcome = job::run(&mut remembered, &order, &mut target, &self.progress)?;
        drop(remembered);
        Ok(Done {
            target,
            order,
            reply,
            flags,
            begun,
            outcome,
        })
    }
}

impl Done {
    /// Tells the caller, and those who watch.
    ///
    /// # Errors
    ///
    /// As [`status`], or `EFAULT` if the caller has taken away where the result goes.
    fn tell(self) -> Result<isize> {
        let status = status(&self.outcome);
        let result = uapi::result(self.outcome.counts.into_totals(), self.outcome.resume);
        if let Some(begun) = self.begun {
            let call = trace::Call {
                pid: task::process_id(self.target.task()),
                flags: self.flags,
                pairs: u32::try_from(self.order.lists.len()).unwrap_or(u32::MAX),
                va_start: self.order.range.start,
                va_end: self.order.range.end,
                ret: status.unwrap_or_else(|e| e.to_errno() as isize),
                usecs: begun.usecs(),
            };
            trace::call(&call, &result);
        }
        if status != Err(ESRCH) {
            self.reply.write(&result, &self.outcome.by_pair)?;
        }
        status
    }
}

/// What a call returns: 0, or the number of pages left behind.
///
/// # Errors
///
/// `EINTR` if a signal ended it, `ESRCH` if the target exited before anything was done, `ENOMEM` if
/// some pages found no room or bookkeeping had no memory.
fn status(outcome: &Outcome) -> Result<isize> {
    let counts = &outcome.counts;
    match outcome.end {
        End::Signal => Err(EINTR),
        End::TargetGone if counts.is_empty() => Err(ESRCH),
        End::OutOfMemory => Err(ENOMEM),
        End::Done | End::TargetGone if counts.no_memory().any() => Err(ENOMEM),
        End::Done | End::TargetGone => Ok(counts.left().get().min(i32::MAX as u64) as isize),
    }
}
