// SPDX-License-Identifier: GPL-2.0

//! What the Rust test programs share: TAP output, memory on known nodes, and a
//! look at pages from outside of the module, by move_pages(2).
//!
//! A helper that meets something that no test expects panics: a test that
//! cannot do its work must not pass.

pub mod cli;
pub mod schema;
pub mod stall;
pub mod terminal;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use page_migrate::cpus::{set_affinity, CpuSet};
use page_migrate::{page_size, Machine};

/// uid and gid of an ordinary user.
pub const NOBODY: u32 = 65534;

/// Of <linux/mempolicy.h>; the crate libc lacks it.
const MPOL_MF_MOVE: i32 = 2;

/// Runs tests and prints TAP version 13. A test fails by panicking.
#[derive(Debug, Default)]
pub struct Tap {
    run: u32,
    failed: u32,
}

thread_local! {
    static IN_TEST: Cell<bool> = const { Cell::new(false) };
}

impl Tap {
    /// Begins the output.
    pub fn new() -> Self {
        println!("TAP version 13");
        panic::set_hook(Box::new(|info| {
            // One line for each, so that all of it is a comment.
            for line in info.to_string().lines() {
                println!("# {line}");
            }
            if !IN_TEST.get() {
                println!("Bail out! a helper failed outside of a test");
            }
        }));
        Tap::default()
    }

    /// Runs one test.
    pub fn test(&mut self, name: &str, test: impl FnOnce()) {
        self.run += 1;
        IN_TEST.set(true);
        let begin = Instant::now();
        let ok = panic::catch_unwind(AssertUnwindSafe(test)).is_ok();
        IN_TEST.set(false);
        if !ok {
            self.failed += 1;
        }
        let not = if ok { "" } else { "not " };
        println!("{not}ok {} {name}", self.run);
        println!("# {} ms", begin.elapsed().as_millis());
        io::stdout().flush().unwrap();
    }

    /// Prints the plan and ends the program.
    pub fn finish(self) -> ! {
        println!("1..{}", self.run);
        std::process::exit(i32::from(self.failed > 0));
    }
}

/// The nodes with memory, ascending; gaps are possible. At least three, as on
/// every machine that the tests are run on.
pub fn memory_nodes() -> Vec<u32> {
    let nodes = Machine::read().unwrap().memory().to_vec();
    assert!(nodes.len() >= 3, "needs three nodes with memory: {nodes:?}");
    nodes
}

/// A node list of sysfs: possible, online, has_memory.
pub fn sysfs_nodes(file: &str) -> Vec<u32> {
    let path = format!("/sys/devices/system/node/{file}");
    let text = fs::read_to_string(path).unwrap();
    Machine::new(&[], &[]).parse_nodes(text.trim()).unwrap()
}

/// The machine's base page size.
pub fn page() -> usize {
    usize::try_from(page_size()).unwrap()
}

/// A mapping, gone when it is dropped.
#[derive(Debug)]
pub struct Memory {
    addr: *mut u8,
    pages: usize,
}

impl Memory {
    fn map(pages: usize, prot: i32, flags: i32, fd: i32) -> Self {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let addr = unsafe { libc::mmap(std::ptr::null_mut(), pages * page(), prot, flags, fd, 0) };
        assert!(addr != libc::MAP_FAILED, "{}", io::Error::last_os_error());
        let memory = Memory {
            addr: addr.cast(),
            pages,
        };
        // SAFETY: the whole of a mapping that we have just made. Without huge
        // pages each page can be on a node of its own.
        unsafe { libc::madvise(addr, pages * page(), libc::MADV_NOHUGEPAGE) };
        memory
    }

    /// Anonymous memory of which nothing is there yet.
    pub fn empty(pages: usize) -> Self {
        Self::map(
            pages,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
        )
    }

    /// Anonymous memory, page i on `nodes[i % nodes.len()]`, each page with
    /// contents of its own.
    pub fn on(nodes: &[u32], pages: usize) -> Self {
        let memory = Self::empty(pages);
        memory.fill_on(nodes);
        memory
    }

    /// A file, mapped shared; page i comes to `nodes[i % nodes.len()]`, if it is
    /// not there yet.
    pub fn file(path: &Path, pages: usize, nodes: &[u32]) -> Self {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap();
        file.set_len((pages * page()) as u64).unwrap();
        let memory = Self::map(
            pages,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
        );
        memory.fill_on(nodes);
        memory
    }

    /// Memory of memfd_secret(2) on a node, which the kernel cannot move.
    pub fn secret(pages: usize, node: u32) -> Self {
        // SAFETY: takes one number and makes a descriptor that nothing else owns.
        let file = unsafe {
            let fd = libc::syscall(libc::SYS_memfd_secret, 0);
            assert!(fd >= 0, "memfd_secret: {}", io::Error::last_os_error());
            File::from_raw_fd(fd as i32)
        };
        file.set_len((pages * page()) as u64).unwrap();
        let memory = Self::map(
            pages,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
        );
        task_policy(Some(node));
        (0..pages).for_each(|i| memory.write(i, Self::content(i)));
        task_policy(None);
        memory
    }

    fn fill_on(&self, nodes: &[u32]) {
        for (k, node) in nodes.iter().enumerate() {
            task_policy(Some(*node));
            for i in (k..self.pages).step_by(nodes.len()) {
                self.write(i, Self::content(i));
            }
        }
        task_policy(None);
        for (i, node) in self.nodes().into_iter().enumerate() {
            assert_eq!(node, nodes[i % nodes.len()] as i32, "placing page {i}");
        }
    }

    /// Gives all of it a policy.
    fn bind(&self, node: u32) {
        let (mask, bits) = node_mask(node);
        // SAFETY: the whole of our mapping, and a mask with as many bits as we say.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.addr,
                self.len(),
                libc::MPOL_BIND,
                mask.as_ptr(),
                bits,
                0,
            )
        };
        assert_eq!(done, 0, "mbind: {}", io::Error::last_os_error());
    }

    /// What is written into a page.
    fn content(page: usize) -> u64 {
        (page as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&self, i: usize, value: u64) {
        assert!(i < self.pages);
        // SAFETY: page i is inside the mapping, which is writable; nobody has
        // a reference to it.
        unsafe {
            self.addr
                .add(i * page())
                .cast::<u64>()
                .write_volatile(value)
        }
    }

    fn read(&self, i: usize) -> u64 {
        assert!(i < self.pages);
        // SAFETY: as in write().
        unsafe { self.addr.add(i * page()).cast::<u64>().read_volatile() }
    }

    /// Takes one page away.
    fn discard(&self, i: usize) {
        assert!(i < self.pages);
        // SAFETY: page i is inside the mapping; its contents are no longer
        // of use to anybody.
        unsafe {
            libc::madvise(
                self.addr.add(i * page()).cast(),
                page(),
                libc::MADV_DONTNEED,
            )
        };
    }

    /// First address.
    pub fn start(&self) -> u64 {
        self.addr as u64
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        (self.pages * page()) as u64
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// The mapping as a range of addresses.
    pub fn range(&self) -> page_migrate::Range {
        page_migrate::Range {
            start: self.start(),
            len: self.len(),
        }
    }

    /// Where each page is.
    pub fn nodes(&self) -> Vec<i32> {
        nodes_of(0, self.start(), self.pages)
    }

    /// Pages that do not hold what was written into them.
    pub fn damaged(&self) -> usize {
        (0..self.pages)
            .filter(|i| self.read(*i) != Self::content(*i))
            .count()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it is given out.
        unsafe { libc::munmap(self.addr.cast(), self.pages * page()) };
    }
}

/// A mask of one node, and its bits.
fn node_mask(node: u32) -> ([u64; 16], u32) {
    let mut mask = [0u64; 16];
    mask[node as usize / 64] = 1 << (node % 64);
    (mask, 1024)
}

/// The memory policy of this thread.
fn task_policy(node: Option<u32>) {
    let mask = node.map(node_mask);
    let (mode, ptr, bits) = match &mask {
        Some((mask, bits)) => (libc::MPOL_BIND, mask.as_ptr(), *bits),
        None => (libc::MPOL_DEFAULT, std::ptr::null(), 0),
    };
    // SAFETY: the mask has as many bits as we say.
    let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, ptr, bits) };
    assert_eq!(done, 0, "set_mempolicy: {}", io::Error::last_os_error());
}

/// Nodes of a process's pages, by move_pages(2): a negative errno where there
/// is no page.
pub fn nodes_of(pid: i32, start: u64, pages: usize) -> Vec<i32> {
    let addrs: Vec<u64> = (0..pages).map(|i| start + (i * page()) as u64).collect();
    let mut status = vec![i32::MIN; pages];
    // SAFETY: both lists have `pages` entries. Without target nodes the call
    // only asks.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            pid,
            pages,
            addrs.as_ptr(),
            std::ptr::null::<i32>(),
            status.as_mut_ptr(),
            0,
        )
    };
    assert_eq!(done, 0, "move_pages: {}", io::Error::last_os_error());
    status
}

/// Pages of a process that do not hold what [`Memory`] wrote into them.
pub fn damaged_in(pid: i32, start: u64, pages: usize) -> usize {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    (0..pages)
        .filter(|i| {
            let mut word = [0; 8];
            memory
                .read_exact_at(&mut word, start + (i * page()) as u64)
                .unwrap();
            u64::from_ne_bytes(word) != Memory::content(*i)
        })
        .count()
}

/// Sends own pages to nodes, as far as there is room.
fn move_pages(start: u64, nodes: &[i32]) {
    let addrs: Vec<u64> = (0..nodes.len())
        .map(|i| start + (i * page()) as u64)
        .collect();
    let mut status = vec![0i32; nodes.len()];
    // SAFETY: all lists have as many entries as we say.
    unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            nodes.len(),
            addrs.as_ptr(),
            nodes.as_ptr(),
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
}

/// Pages below which the kernel begins to reclaim on a node, with some room.
fn high_watermark(node: u32) -> usize {
    let text = fs::read_to_string("/proc/zoneinfo").unwrap();
    let mut ours = false;
    let mut sum = 0;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Node ") {
            ours = rest.split(',').next() == Some(node.to_string().as_str());
        } else if let Some(pages) = line.trim().strip_prefix("high ") {
            if ours {
                sum += pages.trim().parse::<usize>().unwrap();
            }
        }
    }
    assert!(sum > 0, "no watermark of node {node}");
    sum
}

/// Free pages of a node.
pub fn free_pages(node: u32) -> usize {
    let path = format!("/sys/devices/system/node/node{node}/vmstat");
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("nr_free_pages "));
    line.unwrap().trim().parse().unwrap()
}

/// All free memory of a node, down to where the kernel refuses to move a page
/// there.
#[derive(Debug)]
pub struct Hog {
    _bulk: Memory,
    _rest: Memory,
}

impl Hog {
    /// Takes it.
    pub fn new(node: u32, other: u32) -> Self {
        // Far above every watermark, for nothing may be reclaimed.
        let reserve = 1024 + 2 * high_watermark(node);
        let bulk = Memory::empty(free_pages(node) + 65536);
        task_policy(Some(node));
        for i in 0..bulk.pages {
            if i % 512 == 0 && free_pages(node) < reserve {
                break;
            }
            bulk.write(i, 1);
        }
        task_policy(None);
        // The rest from another node, down to where no page gets in any more.
        // What the kernel frees there meanwhile, to get above its watermarks,
        // is taken as well: it is full when that has come to an end.
        const CHUNK: usize = 64;
        const IDLE: u32 = 5;
        let rest = Memory::empty(reserve * 4 + 65536);
        let mut idle = 0;
        for first in (0..rest.pages - CHUNK).step_by(CHUNK) {
            task_policy(Some(other));
            (first..first + CHUNK).for_each(|i| rest.write(i, 1));
            task_policy(None);
            let start = rest.start() + (first * page()) as u64;
            move_pages(start, &[node as i32; CHUNK]);
            let arrived: Vec<bool> = nodes_of(0, start, CHUNK)
                .into_iter()
                .map(|n| n == node as i32)
                .collect();
            // What did not fit is of no use.
            for k in (0..CHUNK).filter(|k| !arrived[*k]) {
                rest.discard(first + k);
            }
            if arrived.iter().filter(|a| **a).count() > CHUNK / 8 {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle == IDLE {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert_eq!(idle, IDLE, "node {node} does not get full");
        Hog {
            _bulk: bulk,
            _rest: rest,
        }
    }
}

/// A process with memory on known nodes, made from this program.
#[derive(Debug)]
pub struct Target {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What each part is told of by.
    pub parts: Vec<u64>,
}

impl Target {
    /// Starts one. Each of its parts is told of by a number:
    ///
    /// - `NODE[,NODE]…:PAGES[:FILE]`: memory on these nodes in turn, anonymous or
    ///   of a file that is mapped shared; its address.
    /// - `bind:NODE:PAGES`: anonymous memory with a policy; its address.
    /// - `fork`: a child, to which the rest of the parts belongs; its process ID.
    /// - `cpus:LIST`: a thread that sleeps, bound to these CPUs; its thread ID.
    /// - `busy:NODE`: a thread that gets new pages all the time, by a policy of
    ///   its own from this node; its thread ID.
    /// - `secret:NODE:PAGES`: memory that the kernel cannot move; its address.
    /// - `discard:NODE:PAGES`: a thread that fills memory from this node and gives it
    ///   back, again and again; its thread ID.
    pub fn start(parts: &[&str], uid: u32) -> Self {
        let mut command = Command::new(public_copy(&own_program()));
        command
            .arg("--target")
            .args(parts)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if uid != 0 {
            command.uid(uid).gid(uid);
        }
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut target = Target {
            child,
            stdin,
            stdout,
            parts: Vec::new(),
        };
        for part in parts {
            let line = target.line();
            let addr = line.parse().unwrap_or_else(|_| panic!("{part}: {line}"));
            target.parts.push(addr);
        }
        target
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Its process ID.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Where the pages of a part are.
    pub fn nodes(&self, part: usize, pages: usize) -> Vec<i32> {
        nodes_of(self.pid(), self.parts[part], pages)
    }

    /// Pages that do not hold what it wrote into them, as it sees them itself.
    pub fn damaged(&mut self) -> usize {
        writeln!(self.stdin, "check").unwrap();
        self.line().parse().unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that has exited, but is not reaped until this is dropped.
#[derive(Debug)]
pub struct Zombie(Child);

impl Default for Zombie {
    fn default() -> Self {
        Self::new()
    }
}

impl Zombie {
    /// Starts one and waits until it has exited.
    pub fn new() -> Self {
        let child = Command::new("true").spawn().unwrap();
        let path = format!("/proc/{}/stat", child.id());
        while !fs::read_to_string(&path).unwrap().contains(") Z ") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Zombie(child)
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Zombie {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

/// Sends a signal.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: takes two numbers.
    let done = unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) };
    assert_eq!(done, 0, "kill: {}", io::Error::last_os_error());
}

/// The path of the running test program.
pub fn own_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// Copies a program to where every user can run it, once.
pub fn public_copy(program: &Path) -> PathBuf {
    let folder = PathBuf::from(format!("/tmp/page_migrate-{}", std::process::id()));
    let copy = folder.join(program.file_name().unwrap());
    if !copy.exists() {
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(program, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy
}

/// Call this first in every test program: it is also the program of its
/// targets.
pub fn be_target_if_asked() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some("--target") {
        return;
    }
    // The target ends with the test program, whatever becomes of that.
    // SAFETY: takes plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // A changed user makes a process closed to itself in /proc.
    // SAFETY: as above.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
    let mut memory = Vec::new();
    let mut root = true;
    for part in args {
        let told = match part.split(':').collect::<Vec<_>>()[..] {
            ["fork"] => {
                // SAFETY: there is no other thread yet.
                if unsafe { libc::fork() } != 0 {
                    break;
                }
                root = false;
                // SAFETY: takes plain numbers. A child does not inherit it.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                u64::from(std::process::id())
            }
            ["cpus", list] => start_thread(list, || sleep_for_ever()),
            ["busy", node] => {
                let node = node.parse().unwrap();
                start_thread("", move || allocate_for_ever(node))
            }
            ["secret", node, pages] => {
                memory.push(Memory::secret(
                    pages.parse().unwrap(),
                    node.parse().unwrap(),
                ));
                memory[memory.len() - 1].start()
            }
            ["discard", node, pages] => {
                let (node, pages) = (node.parse().unwrap(), pages.parse().unwrap());
                start_thread("", move || discard_for_ever(node, pages))
            }
            ["bind", node, pages] => {
                let node = node.parse().unwrap();
                let bound = Memory::empty(pages.parse().unwrap());
                bound.bind(node);
                bound.fill_on(&[node]);
                memory.push(bound);
                memory[memory.len() - 1].start()
            }
            [nodes, pages, ref file @ ..] => {
                let nodes: Vec<u32> = nodes.split(',').map(|n| n.parse().unwrap()).collect();
                let pages = pages.parse().unwrap();
                memory.push(match file.first() {
                    Some(file) => Memory::file(Path::new(file), pages, &nodes),
                    None => Memory::on(&nodes, pages),
                });
                memory[memory.len() - 1].start()
            }
            _ => panic!("what is {part}?"),
        };
        println!("{told}");
    }
    if !root {
        sleep_for_ever();
    }
    for line in io::stdin().lines() {
        assert_eq!(line.unwrap(), "check");
        println!("{}", memory.iter().map(Memory::damaged).sum::<usize>());
    }
    std::process::exit(0);
}

/// Starts a thread that may only run on some CPUs, or with an empty list on all
/// that this one may run on. Returns its number.
fn start_thread(cpus: &str, work: impl FnOnce() + Send + 'static) -> u64 {
    let cpus = CpuSet::parse(cpus).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        if !cpus.is_empty() {
            set_affinity(0, &cpus).unwrap();
        }
        // SAFETY: takes nothing.
        tell.send(unsafe { libc::gettid() }).unwrap();
        work();
    });
    u64::try_from(told.recv().unwrap()).unwrap()
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

/// Some thousand pages, new ones all the time, from one node as far as the
/// thread's policy still says so.
fn allocate_for_ever(node: u32) {
    task_policy(Some(node));
    let mut held = std::collections::VecDeque::new();
    loop {
        let memory = Memory::empty(64);
        (0..64).for_each(|i| memory.write(i, 1));
        held.push_back(memory);
        if held.len() > 32 {
            held.pop_front();
        }
        // Others need the CPU, too.
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
}

/// Fills memory from one node and gives all of it back, as fast as it can.
fn discard_for_ever(node: u32, pages: usize) {
    task_policy(Some(node));
    let memory = Memory::empty(pages);
    loop {
        (0..pages).for_each(|i| memory.write(i, 1));
        (0..pages).for_each(|i| memory.discard(i));
    }
}

/// Removes what [`public_copy`] made.
pub fn clean_up() {
    let _ = fs::remove_dir_all(format!("/tmp/page_migrate-{}", std::process::id()));
}
