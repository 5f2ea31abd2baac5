// SPDX-License-Identifier: GPL-2.0

//! Processes, as /proc shows them: named ones, descendants, control groups.

pub(crate) mod numa_maps;
pub(crate) mod slurm;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use page_migrate::open_pidfd;

use crate::exit::Failure;
use crate::term;

/// A text of /proc. Names need not be UTF-8.
pub(crate) fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

/// A field of /proc/PID/status.
pub(crate) fn status_field(pid: i32, field: &str) -> Option<String> {
    let status = read(format!("/proc/{pid}/status"))?;
    status.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.trim().to_owned())
    })
}

/// The name of a process. Whoever gave it must not have it control a terminal.
pub(crate) fn name(pid: i32) -> Option<String> {
    status_field(pid, "Name").map(|name| name.replace(char::is_control, "?"))
}

/// A process, and proof that it is still the same one.
#[derive(Debug)]
pub(crate) struct Process {
    /// As it was named.
    pub(crate) pid: i32,
    /// Its first thread.
    pub(crate) tgid: i32,
    pub(crate) name: Option<String>,
    begun: Option<u64>,
}

impl Process {
    pub(crate) fn new(pid: i32) -> Self {
        let tgid = tgid(pid);
        Process {
            pid,
            tgid,
            name: name(tgid),
            begun: stat(tgid).map(|s| s.begun),
        }
    }

    /// A pidfd, which stays with this process; none if it has exited, or if
    /// this kernel has none to give.
    pub(crate) fn pidfd(&self) -> Option<OwnedFd> {
        open_pidfd(self.tgid).ok()
    }

    /// Whether /proc showed it when it was named or found.
    pub(crate) fn was_seen(&self) -> bool {
        self.begun.is_some()
    }

    /// Whether it has exited, whatever its number stands for now.
    pub(crate) fn is_gone(&self) -> bool {
        match stat(self.tgid) {
            Some(stat) => Some(stat.begun) != self.begun || is_dead(self.tgid, &stat),
            None => self.begun.is_some(),
        }
    }

    /// "process 12 (cat)"
    pub(crate) fn title(&self) -> String {
        match &self.name {
            Some(name) => {
                let name = term::shown(name, term::is_utf8());
                format!("process {} ({name})", self.pid)
            }
            None => format!("process {}", self.pid),
        }
    }
}

fn tgid(pid: i32) -> i32 {
    status_field(pid, "Tgid")
        .and_then(|text| text.parse().ok())
        .unwrap_or(pid)
}

/// Some of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) begun: u64,
    pub(crate) cpu: usize,
}

pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&read(format!("/proc/{pid}/stat"))?)
}

pub(crate) fn thread_stat(pid: i32, tid: i32) -> Option<Stat> {
    parse_stat(&read(format!("/proc/{pid}/task/{tid}/stat"))?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name, in parentheses, can hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        begun: fields.get(19)?.parse().ok()?,
        cpu: fields.get(36)?.parse().ok()?,
    })
}

/// The numbers that are names in a folder.
fn numbers(folder: impl AsRef<Path>) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

/// The processes that have a name, as ps(1) shows it.
pub(crate) fn named(wanted: &str) -> Vec<i32> {
    numbers("/proc")
        .into_iter()
        .filter(|pid| name(*pid).is_some_and(|name| name == wanted))
        .collect()
}

/// How much memory a process has, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// Whatever it maps.
    pub(crate) all: u64,
    /// The same, with each page divided by the number of its mappings.
    pub(crate) share: u64,
    /// Pages of hugetlbfs, which are in neither number.
    pub(crate) huge: u64,
}

/// What /proc tells of a process.
pub(crate) fn resident(pid: i32) -> Option<Resident> {
    let rollup = read(format!("/proc/{pid}/smaps_rollup"))?;
    let status = read(format!("/proc/{pid}/status"))?;
    parse_resident(&rollup, &status)
}

fn parse_resident(rollup: &str, status: &str) -> Option<Resident> {
    Some(Resident {
        all: kilobytes(rollup, "Rss:")?,
        share: kilobytes(rollup, "Pss:")?,
        huge: kilobytes(status, "HugetlbPages:").unwrap_or(0),
    })
}

/// A line like "Rss:  12 kB", in bytes.
pub(crate) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let number = lines.next()?.split_whitespace().next()?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// The threads of a process.
pub(crate) fn threads(tgid: i32) -> Vec<i32> {
    numbers(format!("/proc/{tgid}/task"))
}

/// What the user named.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub(crate) pids: Vec<i32>,
    pub(crate) children: bool,
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) jobs: Vec<slurm::Job>,
}

impl Selection {
    /// Whether it can only ever be one process.
    pub(crate) fn is_single(&self) -> bool {
        self.pids.len() == 1 && !self.children && self.groups().next().is_none()
    }

    /// The control groups whose cpusets are its own.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &PathBuf> {
        let of_jobs = self.jobs.iter().flat_map(|job| job.groups());
        self.cgroups.iter().chain(of_jobs)
    }

    /// The processes that were named by their numbers, once each.
    pub(crate) fn named(&self) -> Vec<Process> {
        let mut seen = BTreeSet::new();
        self.pids
            .iter()
            .map(|pid| Process::new(*pid))
            .filter(|process| seen.insert(process.tgid))
            .collect()
    }

    /// What else belongs to it now, and is not among `known`.
    pub(crate) fn others(&self, known: &BTreeSet<i32>) -> Vec<Process> {
        let mut found: Vec<i32> = self.cgroups.iter().flat_map(|c| in_cgroup(c)).collect();
        found.extend(self.jobs.iter().flat_map(slurm::Job::processes));
        if self.children {
            let roots: Vec<i32> = known.iter().chain(&found).copied().collect();
            found.extend(descendants(&roots, &parents()));
        }
        let mut seen = known.clone();
        // This command may run inside of the job that it moves.
        seen.insert(i32::try_from(std::process::id()).unwrap_or(0));
        found
            .into_iter()
            .filter(|pid| seen.insert(*pid) && can_move(*pid))
            .map(Process::new)
            // One that has exited by now is not there to be looked for.
            .filter(Process::was_seen)
            .collect()
    }
}

/// Whether it waits to be reaped. Where its first thread alone has exited, it
/// lives on.
fn is_dead(tgid: i32, stat: &Stat) -> bool {
    "ZX".contains(stat.state) && threads(tgid).len() <= 1
}

/// Whether it is neither dead nor a kernel thread.
fn can_move(tgid: i32) -> bool {
    stat(tgid).is_some_and(|stat| {
        let has_memory = || status_field(tgid, "VmSize").is_some();
        !is_dead(tgid, &stat) && (stat.state == 'Z' || has_memory())
    })
}

/// Each process's parent.
fn parents() -> BTreeMap<i32, i32> {
    numbers("/proc")
        .into_iter()
        .filter_map(|pid| Some((pid, stat(pid)?.parent)))
        .collect()
}

fn descendants(roots: &[i32], parents: &BTreeMap<i32, i32>) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, parent) in parents {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut queue: Vec<i32> = roots.to_vec();
    while let Some(pid) = queue.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if seen.insert(*child) {
                found.push(*child);
                queue.push(*child);
            }
        }
    }
    found
}

/// The processes of a control group and of all below it.
fn in_cgroup(folder: &Path) -> Vec<i32> {
    let mut pids = match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => parse_pids(&text),
        // In a threaded group only threads can be listed.
        Err(e) if e.raw_os_error() == Some(EOPNOTSUPP) => {
            fs::read_to_string(folder.join("cgroup.threads"))
                .map(|text| parse_pids(&text).into_iter().map(tgid).collect())
                .unwrap_or_default()
        }
        // It has gone away.
        Err(_) => Vec::new(),
    };
    let below = folders(folder).into_iter();
    pids.extend(below.flat_map(|(_, path)| in_cgroup(&path)));
    pids
}

/// The folders in a folder, with their names, in order. A group can have any name.
pub(crate) fn folders(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<(String, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .collect();
    found.sort();
    found
}

const EOPNOTSUPP: i32 = 95;

/// One on each line. 0 is a process of another pid namespace.
fn parse_pids(text: &str) -> Vec<i32> {
    text.lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

const NO_CGROUPS: &str = "no control groups of version 2 are mounted";

/// Where the control groups of version 2 are.
fn cgroup_root() -> Option<PathBuf> {
    find_cgroup_root(&read("/proc/self/mountinfo")?)
}

fn find_cgroup_root(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next()? == "cgroup2")
            .then(|| left.split(' ').nth(4))
            .flatten()
            .map(|point| numa_maps::unescape(point).into())
    })
}

/// The groups below a folder that have the name of a unit of systemd.
fn units(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (own, path) in folders(folder) {
        found.extend(units(&path, name));
        if own == name {
            found.push(path);
        }
    }
    found
}

/// The folder of a control group, which may be named by its path in the file
/// system, like in /proc/PID/cgroup below the root of all groups, or by the name
/// of a unit of systemd.
pub(crate) fn cgroup_folder(name: &Path) -> Result<PathBuf, Failure> {
    let is_group = |path: &Path| path.join("cgroup.controllers").exists();
    if is_group(name) {
        return Ok(name.to_owned());
    }
    let root = cgroup_root().ok_or_else(|| Failure::Error(NO_CGROUPS.into()))?;
    let path = root.join(name.strip_prefix("/").unwrap_or(name));
    if is_group(&path) {
        return Ok(path);
    }
    let is_unit = |unit: &&str| {
        let kinds = [".service", ".scope", ".slice"];
        !unit.contains('/') && kinds.iter().any(|kind| unit.ends_with(kind))
    };
    if let Some(unit) = name.to_str().filter(is_unit) {
        match &units(&root, unit)[..] {
            [] => {}
            [one] => return Ok(one.clone()),
            all => {
                let all: Vec<String> = all.iter().map(|p| p.display().to_string()).collect();
                return Err(Failure::Error(format!(
                    "{} control groups have the name {unit}: name one by its path\n  {}",
                    all.len(),
                    all.join("\n  ")
                )));
            }
        }
    }
    let why = match fs::metadata(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => format!(": {e}"),
        _ => String::new(),
    };
    Err(Failure::Error(format!(
        "no control group {} of version 2, neither as a folder nor below {}{why}",
        name.display(),
        root.display()
    )))
}

/// The list of CPUs that a process's cpuset allows, if it can be found out.
pub(crate) fn cpuset_cpus(tgid: i32) -> Option<String> {
    let groups = read(format!("/proc/{tgid}/cgroup"))?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = cgroup_root()?;
    let path = root.join(group);
    // Groups without the controller have what their parents have.
    path.ancestors()
        .take_while(|folder| folder.starts_with(&root))
        .find_map(|folder| fs::read_to_string(folder.join("cpuset.cpus.effective")).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats() {
        let text = "12 (a) b) R 7 12 12 0 -1 4194304 1 0 0 0 1 2 3 4 20 0 1 0 \
                    4711 100 5 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 3 0 0";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                state: 'R',
                parent: 7,
                begun: 4711,
                cpu: 3,
            })
        );
        assert_eq!(parse_stat("12 (a"), None);
        let me = stat(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.parent > 0 || me.begun > 0, "{me:?}");
    }

    #[test]
    fn names_that_are_no_text() {
        let me = i32::try_from(std::process::id()).unwrap();
        let comm = format!("/proc/{me}/comm");
        let name = fs::read(&comm).unwrap();
        fs::write(&comm, b"\xffx\x1b[2J").unwrap();
        let (told, movable) = (Process::new(me).title(), can_move(me));
        fs::write(&comm, name).unwrap();
        assert_eq!(told, format!("process {me} (\u{fffd}x?[2J)"));
        assert!(movable);
    }

    #[test]
    fn sizes() {
        let text = "7f00-7fff ---p 00000000 00:00 0 [rollup]\nRss:   40 kB\nPss:    10 kB\nPss_Dirty: 1 kB\n";
        let told = Resident {
            all: 40 << 10,
            share: 10 << 10,
            huge: 2048 << 10,
        };
        let status = "Name:\tx\nHugetlbPages:\t    2048 kB\n";
        assert_eq!(parse_resident(text, status), Some(told));
        assert_eq!(parse_resident("Rss: x kB\n", status), None);
    }

    #[test]
    fn families() {
        let parents = BTreeMap::from([(1, 0), (2, 1), (3, 2), (4, 2), (5, 4), (6, 1), (7, 9)]);
        let of = |roots: &[i32]| {
            let mut found = descendants(roots, &parents);
            found.sort_unstable();
            found
        };
        assert_eq!(of(&[2]), [3, 4, 5]);
        assert_eq!(of(&[2, 4]), [3, 4, 5]);
        assert_eq!(of(&[6]), [] as [i32; 0]);
        assert_eq!(of(&[9]), [7]);
    }

    #[test]
    fn cgroup_files() {
        assert_eq!(parse_pids("12\n0\n7\n"), [12, 7]);
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            find_cgroup_root(mounts),
            Some(PathBuf::from("/sys/fs/cgroup"))
        );
        assert_eq!(
            find_cgroup_root("22 1 0:21 / / rw - ext4 /dev/sda rw\n"),
            None
        );
        assert!(cgroup_folder(Path::new("/nonexistent/group")).is_err());
    }

    #[test]
    fn units_of_systemd() {
        let root = tempfile::tempdir().unwrap();
        for group in [
            "system.slice/web.service/worker",
            "user.slice/user-1000.slice/user@1000.service/app.slice/web.service",
            "system.slice/db.service",
        ] {
            fs::create_dir_all(root.path().join(group)).unwrap();
        }
        let found = |name| units(root.path(), name);
        assert_eq!(
            found("db.service"),
            [root.path().join("system.slice/db.service")]
        );
        assert_eq!(found("web.service").len(), 2);
        assert_eq!(found("user-1000.slice").len(), 1);
        assert!(found("none.service").is_empty());
    }

    #[test]
    fn found_once() {
        let me = i32::try_from(std::process::id()).unwrap();
        let selection = Selection {
            pids: vec![me, me],
            children: true,
            ..Selection::default()
        };
        assert!(!selection.is_single());
        let named = selection.named();
        assert_eq!(named.len(), 1);
        assert!(!named[0].is_gone() && named[0].pidfd().is_some());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let others = |known: &[i32]| {
            let known = known.iter().copied().collect();
            selection.others(&known).iter().any(|p| p.tgid == pid)
        };
        assert!(others(&[me]) && !others(&[me, pid]));
        let process = Process::new(pid);
        assert!(!process.is_gone());
        child.kill().unwrap();
        // Dead, but not yet reaped.
        while !process.is_gone() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(process.is_gone() && !others(&[me]));
    }
}
