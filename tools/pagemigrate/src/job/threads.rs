// SPDX-License-Identifier: GPL-2.0

//! Moves the CPUs of threads along, by the same map as the pages.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use page_migrate::cpus::{affinity, set_affinity, CpuSet, Topology};
use page_migrate::Pair;
use serde_json::{json, Value};

use crate::job::cpuset::image;
use crate::proc::{self, Process};

/// A thread that was to get other CPUs.
#[derive(Debug)]
pub(crate) struct Change {
    pid: i32,
    tid: i32,
    from: CpuSet,
    to: CpuSet,
    error: Option<String>,
}

pub(crate) struct Threads {
    topology: Topology,
    pairs: Vec<Pair>,
    dry_run: bool,
    /// Where cpusets move along: what has no choice of its own gets other CPUs by its cpuset, and
    /// the rest those that are the counterparts of its own.
    counterparts: Option<BTreeMap<usize, usize>>,
    /// Threads and when they began: they are looked at once.
    seen: BTreeSet<(i32, u64)>,
    /// What was given: a thread that has it later has inherited it.
    given: BTreeSet<CpuSet>,
    changes: Vec<Change>,
    /// Threads that may run elsewhere, or do.
    stay: u64,
}

/// What is to happen to a thread.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Stay,
    Move(CpuSet),
    NoCpu,
}

/// How often new threads are looked for before they are let go: a process that
/// makes threads all the time must not keep us.
const ROUNDS: u32 = 16;

impl Threads {
    pub(crate) fn new(
        topology: Topology,
        pairs: &[Pair],
        dry_run: bool,
        counterparts: Option<BTreeMap<usize, usize>>,
    ) -> Self {
        Threads {
            topology,
            pairs: pairs.to_vec(),
            dry_run,
            counterparts,
            seen: BTreeSet::new(),
            given: BTreeSet::new(),
            changes: Vec::new(),
            stay: 0,
        }
    }

    /// Looks at every thread that has not been looked at, and gives it the CPUs
    /// of the new nodes.
    pub(crate) fn sweep<'a>(&mut self, processes: impl Iterator<Item = &'a Process> + Clone) {
        for _ in 0..ROUNDS {
            // All are planned before the first one changes: what a thread has
            // by then, it has not inherited from one that we changed.
            let mut plans = Vec::new();
            let mut new = 0;
            for process in processes.clone() {
                let mut allowed = None;
                for tid in proc::threads(process.tgid) {
                    let Some(stat) = proc::thread_stat(process.tgid, tid) else {
                        continue;
                    };
                    if !self.seen.insert((tid, stat.begun)) {
                        continue;
                    }
                    let Ok(mask) = affinity(tid) else {
                        continue;
                    };
                    new += 1;
                    if self.given.contains(&mask) {
                        continue;
                    }
                    let allowed = allowed.get_or_insert_with(|| self.allowed(process.tgid));
                    if let Some(counterparts) = &self.counterparts {
                        let to = image(&mask, counterparts);
                        if !allowed.is_subset(&mask) && to != mask {
                            plans.push((process.pid, tid, mask, Ok(to)));
                        }
                        continue;
                    }
                    match plan(&self.topology, &self.pairs, &mask, allowed, stat.cpu) {
                        Plan::Stay => self.stay += 1,
                        Plan::Move(to) => plans.push((process.pid, tid, mask, Ok(to))),
                        Plan::NoCpu => plans.push((process.pid, tid, mask, Err(()))),
                    }
                }
            }
            for (pid, tid, from, to) in plans {
                let change = match to {
                    Ok(to) => self.change(pid, tid, from, to),
                    Err(()) => Some(Change {
                        pid,
                        tid,
                        from,
                        to: CpuSet::default(),
                        error: Some("the new nodes have no CPU".into()),
                    }),
                };
                self.changes.extend(change);
            }
            if new == 0 || self.dry_run {
                break;
            }
        }
    }

    /// The CPUs that a thread without a mask of its own can have.
    fn allowed(&self, tgid: i32) -> CpuSet {
        let all = self.topology.all_cpus();
        match proc::cpuset_cpus(tgid).and_then(|list| CpuSet::parse(&list)) {
            Some(cpus) if !cpus.is_empty() => cpus.intersection(&all),
            _ => all,
        }
    }

    fn change(&mut self, pid: i32, tid: i32, from: CpuSet, mut to: CpuSet) -> Option<Change> {
        let mut error = None;
        if !self.dry_run {
            self.given.insert(to.clone());
            match set_affinity(tid, &to) {
                Ok(()) => {
                    // The cpuset may not allow all of them.
                    if let Ok(now) = affinity(tid) {
                        self.given.insert(now.clone());
                        to = now;
                    }
                }
                // It has exited.
                Err(e) if e.raw_os_error() == Some(ESRCH) => return None,
                Err(e) => {
                    error = Some(match e.kind() {
                        io::ErrorKind::InvalidInput if self.counterparts.is_some() => {
                            "the cpuset has none of these CPUs".into()
                        }
                        io::ErrorKind::InvalidInput => {
                            "the cpuset has none of these CPUs (--cpuset moves it along)".into()
                        }
                        io::ErrorKind::PermissionDenied => {
                            "not permitted: be its user, or have CAP_SYS_NICE".into()
                        }
                        _ => e.to_string(),
                    });
                }
            }
        }
        Some(Change {
            pid,
            tid,
            from,
            to,
            error,
        })
    }

    /// Gives the threads back what they had.
    pub(crate) fn undo(&mut self) {
        for change in self.changes.drain(..).filter(|c| c.error.is_none()) {
            // It has exited, or its cpuset has none of them: then it has what that gives.
            let _ = set_affinity(change.tid, &change.from);
        }
    }

    /// Whether some thread could not be moved.
    pub(crate) fn failed(&self) -> bool {
        self.changes.iter().any(|change| change.error.is_some())
    }

    /// What went wrong, in one line for each reason.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut reasons: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
        for change in &self.changes {
            if let Some(error) = &change.error {
                reasons.entry(error).or_default().push(change);
            }
        }
        let union = |changes: &[&Change], of: fn(&Change) -> &CpuSet| {
            let mut all = CpuSet::default();
            changes.iter().for_each(|change| all.extend(of(change)));
            all
        };
        let one = |(error, changes): (&str, Vec<&Change>)| {
            let processes: BTreeSet<i32> = changes.iter().map(|change| change.pid).collect();
            let count = |n: usize, what: &str, more: &str| match n {
                1 => format!("1 {what}"),
                n => format!("{n} {what}{more}"),
            };
            let (from, to) = (union(&changes, |c| &c.from), union(&changes, |c| &c.to));
            let not = if to.is_empty() {
                String::new()
            } else {
                format!(", not {to}")
            };
            format!(
                "{} of {}: CPUs {from} stay{not}: {error}. What they touch first comes from the old \
                 nodes",
                count(changes.len(), "thread", "s"),
                count(processes.len(), "process", "es"),
            )
        };
        reasons.into_iter().map(one).collect()
    }

    /// One line for all threads of a process to which the same happened.
    pub(crate) fn to_text(&self) -> String {
        let mut groups: BTreeMap<(i32, &CpuSet, &CpuSet), u64> = BTreeMap::new();
        for change in self.changes.iter().filter(|c| c.error.is_none()) {
            let key = (change.pid, &change.from, &change.to);
            *groups.entry(key).or_default() += 1;
        }
        let verb = if self.dry_run {
            "would become"
        } else {
            "became"
        };
        let mut out = String::new();
        for ((pid, from, to), n) in groups {
            let s = if n == 1 { "" } else { "s" };
            out += &format!("{n} thread{s} of process {pid}: CPUs {from} {verb} {to}\n");
        }
        if self.stay > 0 {
            let s = if self.stay == 1 { "" } else { "s" };
            out += &format!(
                "{} thread{s}: CPUs stay, for they are not those of old nodes alone\n",
                self.stay
            );
        }
        out
    }

    pub(crate) fn to_json(&self) -> Value {
        let changes = self.changes.iter().map(|change| {
            json!({
                "pid": change.pid,
                "tid": change.tid,
                "from": change.from.to_string(),
                "to": change.to.to_string(),
                "error": change.error,
            })
        });
        json!({"changes": changes.collect::<Vec<_>>(), "unchanged": self.stay})
    }
}

const ESRCH: i32 = 3;

/// `mask` is what the thread has, `allowed` what it would have without one of
/// its own, `cpu` where it ran last.
fn plan(topology: &Topology, pairs: &[Pair], mask: &CpuSet, allowed: &CpuSet, cpu: usize) -> Plan {
    let old = topology.old_cpus(pairs);
    // A default mask says nothing: then it counts where the thread is, if it has
    // run since it got that mask.
    let at = if allowed.is_subset(mask) && mask.contains(cpu) {
        CpuSet::from_iter([cpu])
    } else {
        mask.clone()
    };
    if at.is_empty() || !at.is_subset(&old) {
        return Plan::Stay;
    }
    let to = topology.new_cpus(&at, pairs);
    if to.is_empty() {
        Plan::NoCpu
    } else if to == *mask {
        Plan::Stay
    } else {
        Plan::Move(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use page_migrate::Node;

    fn set(list: &str) -> CpuSet {
        CpuSet::parse(list).unwrap()
    }

    fn pairs(pairs: &[(u32, u32)]) -> Vec<Pair> {
        pairs
            .iter()
            .map(|(old, new)| Pair {
                old: Node::Id(*old),
                new: Node::Id(*new),
            })
            .collect()
    }

    /// Two CPUs on each of three nodes; the fourth has none.
    fn machine() -> Topology {
        let folder = std::env::temp_dir().join(format!("pagemigrate-{}", std::process::id()));
        for (node, cpus) in [(0, "0-1"), (1, "2-3"), (2, "4-5"), (3, "")] {
            let node = folder.join(format!("node{node}"));
            std::fs::create_dir_all(&node).unwrap();
            std::fs::write(node.join("cpulist"), cpus).unwrap();
            std::fs::write(node.join("distance"), "10 20 20 20").unwrap();
        }
        std::fs::write(folder.join("online"), "0-3\n").unwrap();
        let topology = Topology::read_at(&folder).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        topology
    }

    #[test]
    fn plans() {
        let t = machine();
        let shift = pairs(&[(0, 1), (1, 2)]);
        let plan = |mask: &str, allowed: &str, cpu| {
            super::plan(&t, &shift, &set(mask), &set(allowed), cpu)
        };
        let to = |list: &str| Plan::Move(set(list));
        // Bound to old nodes, wherever it runs.
        assert_eq!(plan("0", "0-5", 5), to("2-3"));
        assert_eq!(plan("1-2", "0-5", 1), to("2-5"));
        // Bound to others, too.
        assert_eq!(plan("1,4", "0-5", 1), Plan::Stay);
        assert_eq!(plan("4-5", "0-5", 4), Plan::Stay);
        // Free: by where it is.
        assert_eq!(plan("0-5", "0-5", 1), to("2-3"));
        assert_eq!(plan("0-5", "0-5", 3), to("4-5"));
        assert_eq!(plan("0-5", "0-5", 5), Plan::Stay);
        // Free inside of its cpuset, which has nothing but old nodes.
        assert_eq!(plan("0-3", "0-3", 2), to("4-5"));
        // In a cpuset that is newer than its last run.
        assert_eq!(plan("0-1", "0-1", 5), to("2-3"));
        let to_nowhere = pairs(&[(0, 3)]);
        assert_eq!(
            super::plan(&t, &to_nowhere, &set("0"), &set("0-5"), 0),
            Plan::NoCpu
        );
    }

    #[test]
    fn what_is_told() {
        let change = |pid, tid, error: Option<&str>| Change {
            pid,
            tid,
            from: set("0-1"),
            to: set("2-3"),
            error: error.map(Into::into),
        };
        let mut threads = Threads {
            topology: Topology::default(),
            pairs: Vec::new(),
            dry_run: false,
            counterparts: None,
            seen: BTreeSet::new(),
            given: BTreeSet::new(),
            changes: vec![change(7, 7, None), change(7, 8, None)],
            stay: 1,
        };
        assert!(!threads.failed());
        let text = threads.to_text();
        assert!(text.contains("2 threads of process 7: CPUs 0-1 became 2-3\n"));
        assert!(text.contains("1 thread: CPUs stay"));
        threads.dry_run = true;
        assert!(threads.to_text().contains("would become"));
        threads.changes.push(change(7, 9, Some("why")));
        assert!(threads.failed());
        assert!(!threads.to_text().contains("why"));
        assert_eq!(threads.troubles().len(), 1);
        assert!(
            threads.troubles()[0].starts_with("1 thread of 1 process: CPUs 0-1 stay, not 2-3: why")
        );
        for pid in 10..17 {
            threads.changes.push(change(pid, pid, Some("why")));
        }
        // One line for all of them.
        assert_eq!(threads.troubles().len(), 1);
        assert!(threads.troubles()[0].starts_with("8 threads of 8 processes: CPUs 0-1 stay"));
        let json = threads.to_json();
        assert_eq!(json["changes"][1]["tid"], 8);
        assert_eq!(json["unchanged"], 1);
        assert_eq!(json["changes"][2]["error"], "why");
    }
}
