// SPDX-License-Identifier: GPL-2.0

//! The cpusets of a job's control groups go along: they get the new nodes and their CPUs as well
//! before anything moves, and lose the old ones when all has moved. What ends in between leaves them
//! as they were.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use page_migrate::cpus::{CpuSet, Topology};
use page_migrate::{destination, Machine, Node, Pair};
use serde_json::{json, Value};

use crate::proc::folders;

/// What a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Cpus,
    Mems,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Cpus, Kind::Mems];

    fn file(self) -> &'static str {
        match self {
            Kind::Cpus => "cpuset.cpus",
            Kind::Mems => "cpuset.mems",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Cpus => "CPUs",
            Kind::Mems => "nodes",
        })
    }
}

/// A list of a control group that changes.
#[derive(Debug)]
struct List {
    group: PathBuf,
    kind: Kind,
    before: CpuSet,
    /// What it is to be in the end.
    after: CpuSet,
    /// What it is now.
    now: CpuSet,
    error: Option<String>,
}

impl List {
    fn path(&self) -> PathBuf {
        self.group.join(self.kind.file())
    }

    fn wide(&self) -> CpuSet {
        let mut wide = self.before.clone();
        wide.extend(&self.after);
        wide
    }
}

type Writer = Box<dyn FnMut(&Path, &str) -> io::Result<()> + Send>;

pub(crate) struct Cpusets {
    /// The new CPU for each old one.
    counterparts: BTreeMap<usize, usize>,
    /// Each group comes before those below it.
    lists: Vec<List>,
    dry_run: bool,
    /// Whether the lists are to be put back.
    at_work: bool,
    undone: bool,
    write: Writer,
}

/// What is to become of lists.
struct Plan<'a> {
    pairs: &'a [Pair],
    counterparts: BTreeMap<usize, usize>,
    all_cpus: CpuSet,
    machine: &'a Machine,
}

impl Plan<'_> {
    /// What becomes of a list. One that has all of this machine is not chosen for the old nodes, and
    /// stays; so do CPUs where the new nodes have none.
    fn after(&self, kind: Kind, before: &CpuSet) -> CpuSet {
        let all = match kind {
            Kind::Cpus => self.all_cpus.clone(),
            Kind::Mems => self.nodes(|_| true),
        };
        if all.is_subset(before) {
            return before.clone();
        }
        match kind {
            Kind::Cpus => image(before, &self.counterparts),
            Kind::Mems => self.new_nodes(before),
        }
    }

    fn new_nodes(&self, before: &CpuSet) -> CpuSet {
        let mut after = CpuSet::default();
        for node in before.iter() {
            let number = u32::try_from(node).unwrap_or(u32::MAX);
            match destination(self.pairs, number) {
                None => after.extend(&CpuSet::from_iter([node])),
                Some(Node::Id(to)) => after.extend(&CpuSet::from_iter(usize::try_from(to))),
                // Nobody knows which of them the kernel will take.
                Some(Node::Any) => {
                    let named = |id: u32| self.pairs.iter().any(|pair| pair.old == Node::Id(id));
                    after.extend(&self.nodes(|id| !named(id)));
                }
            }
        }
        after
    }

    fn nodes(&self, wanted: impl Fn(u32) -> bool) -> CpuSet {
        let nodes = self.machine.memory().iter().filter(|id| wanted(**id));
        nodes.filter_map(|id| usize::try_from(*id).ok()).collect()
    }
}

impl Cpusets {
    /// Looks at the lists of some groups and of all below them. Nothing is changed.
    pub(crate) fn new<'a>(
        groups: impl Iterator<Item = &'a PathBuf>,
        pairs: &[Pair],
        topology: &Topology,
        machine: &Machine,
        dry_run: bool,
    ) -> Self {
        let groups: Vec<&PathBuf> = groups.collect();
        let mut lists = Vec::new();
        for group in &groups {
            collect(group, &mut lists);
        }
        let mut cpus = CpuSet::default();
        for list in lists.iter().filter(|list| list.kind == Kind::Cpus) {
            cpus.extend(&list.before);
        }
        let plan = Plan {
            pairs,
            counterparts: topology.counterparts(&cpus, pairs, &taken(&groups)),
            all_cpus: topology.all_cpus(),
            machine,
        };
        for list in &mut lists {
            list.after = plan.after(list.kind, &list.before);
        }
        lists.retain(|list| list.after != list.before);
        Cpusets {
            counterparts: plan.counterparts,
            lists,
            dry_run,
            at_work: false,
            undone: false,
            write: Box::new(write),
        }
    }

    /// The new CPU for each old one, where the groups' CPUs change.
    pub(crate) fn counterparts(&self) -> Option<&BTreeMap<usize, usize>> {
        let changes = self.lists.iter().any(|list| list.kind == Kind::Cpus);
        changes.then_some(&self.counterparts)
    }

    /// Adds what is new, from the top down: a group has nothing that the one above it lacks.
    pub(crate) fn widen(&mut self) -> Result<(), String> {
        if self.dry_run {
            return Ok(());
        }
        self.at_work = true;
        for list in &mut self.lists {
            let wide = list.wide();
            set(&mut self.write, list, wide)
                .map_err(|e| format!("cannot widen {}: {e}", list.path().display()))?;
        }
        // What a group above does not allow, the list alone does not give.
        for list in &self.lists {
            let file = format!("{}.effective", list.kind.file());
            let Some(allowed) = read(&list.group.join(file)) else {
                continue;
            };
            if !list.after.is_subset(&allowed) {
                return Err(format!(
                    "{} has only {} {allowed}, for a group above it has no more, not {}. That one may \
                     hold others, too: widen it yourself, or move all that it holds",
                    list.group.display(),
                    list.kind,
                    list.after,
                ));
            }
        }
        Ok(())
    }

    /// Takes what is old away, from the leaves up.
    pub(crate) fn narrow(&mut self, kind: Kind) {
        if self.dry_run {
            return;
        }
        for list in self.lists.iter_mut().rev().filter(|l| l.kind == kind) {
            let after = list.after.clone();
            list.error = set(&mut self.write, list, after)
                .err()
                .map(|e| e.to_string());
        }
    }

    /// All has moved: the lists stay as they are now.
    pub(crate) fn finish(&mut self) {
        self.at_work = false;
    }

    /// Puts all lists back.
    pub(crate) fn undo(&mut self) {
        if !std::mem::take(&mut self.at_work) {
            return;
        }
        self.undone = true;
        for list in &mut self.lists {
            let mut wide = list.before.clone();
            wide.extend(&list.now);
            // If this fails, so does what follows, which is told.
            let _ = set(&mut self.write, list, wide);
        }
        for list in self.lists.iter_mut().rev() {
            let before = list.before.clone();
            list.error = set(&mut self.write, list, before)
                .err()
                .map(|e| e.to_string());
        }
    }

    /// Whether a list is not what it was to be.
    pub(crate) fn failed(&self) -> bool {
        self.lists.iter().any(|list| list.error.is_some())
    }

    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let failed: Vec<&List> = self.lists.iter().filter(|l| l.error.is_some()).collect();
        if let [first, rest @ ..] = &failed[..] {
            let wanted = if self.undone {
                &first.before
            } else {
                &first.after
            };
            let more = match rest.len() {
                0 => String::new(),
                n => format!(" ({n} more like that)"),
            };
            lines.push(format!(
                "{} stays {}, not {wanted}: {}{more}",
                first.path().display(),
                first.now,
                first.error.as_deref().unwrap_or_default(),
            ));
        } else if self.undone && !self.lists.is_empty() {
            lines.push("the cpusets are as they were before".into());
        }
        lines
    }

    /// One line for all groups of which the same is to be told.
    pub(crate) fn to_text(&self) -> String {
        if self.undone {
            return String::new();
        }
        let mut same: BTreeMap<(Kind, &CpuSet, &CpuSet), u64> = BTreeMap::new();
        for list in self.lists.iter().filter(|list| list.error.is_none()) {
            *same
                .entry((list.kind, &list.before, &list.after))
                .or_default() += 1;
        }
        let verb = if self.dry_run {
            "would become"
        } else {
            "became"
        };
        let mut out = String::new();
        for ((kind, before, after), n) in same {
            let s = if n == 1 { "" } else { "s" };
            out += &format!("{n} control group{s}: {kind} {before} {verb} {after}\n");
        }
        out
    }

    pub(crate) fn to_json(&self) -> Value {
        let changes = self.lists.iter().map(|list| {
            json!({
                "cgroup": list.group.to_string_lossy(),
                "file": list.kind.file(),
                "from": list.before.to_string(),
                "to": list.after.to_string(),
                "error": list.error,
            })
        });
        json!({"changes": changes.collect::<Vec<_>>(), "undone": self.undone})
    }
}

/// However the work ends.
impl Drop for Cpusets {
    fn drop(&mut self) {
        self.undo();
    }
}

/// CPUs by their counterparts; what has none stays.
pub(crate) fn image(cpus: &CpuSet, counterparts: &BTreeMap<usize, usize>) -> CpuSet {
    let new = |cpu| counterparts.get(&cpu).copied().unwrap_or(cpu);
    cpus.iter().map(new).collect()
}

/// All lists that are not empty: an empty one is that of the group above.
fn collect(group: &Path, lists: &mut Vec<List>) {
    for kind in Kind::ALL {
        if let Some(before) = read(&group.join(kind.file())).filter(|list| !list.is_empty()) {
            lists.push(List {
                group: group.to_owned(),
                kind,
                now: before.clone(),
                after: before.clone(),
                before,
                error: None,
            });
        }
    }
    for (_, below) in folders(group) {
        collect(&below, lists);
    }
}

/// The CPUs of the groups beside these: other jobs, most likely.
fn taken(groups: &[&PathBuf]) -> CpuSet {
    let mut taken = CpuSet::default();
    for beside in groups.iter().filter_map(|group| group.parent()) {
        for (_, other) in folders(beside) {
            if !groups.contains(&&other) {
                taken.extend(&read(&other.join(Kind::Cpus.file())).unwrap_or_default());
            }
        }
    }
    taken
}

fn read(path: &Path) -> Option<CpuSet> {
    CpuSet::parse(&fs::read_to_string(path).ok()?)
}

fn set(write: &mut Writer, list: &mut List, to: CpuSet) -> io::Result<()> {
    if list.now == to {
        return Ok(());
    }
    match write(&list.path(), &to.to_string()) {
        // The group has gone away with all that was in it.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(ENODEV) => Ok(()),
        Err(e) => Err(e),
        Ok(()) => {
            list.now = to;
            Ok(())
        }
    }
}

const ENODEV: i32 = 19;

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    file.write_all(format!("{text}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use page_migrate::NodeMap;
    use std::sync::{Arc, Mutex};
    use tempfile::TempDir;

    fn machine() -> Machine {
        Machine::new(&[0, 1, 2, 3], &[0, 1, 2, 3])
    }

    /// Two CPUs on each of four nodes.
    fn topology() -> Topology {
        let folder = tempfile::tempdir().unwrap();
        for node in 0..4 {
            let at = folder.path().join(format!("node{node}"));
            fs::create_dir(&at).unwrap();
            fs::write(at.join("cpulist"), format!("{},{}", node, node + 4)).unwrap();
            fs::write(at.join("distance"), "10 20 20 20").unwrap();
        }
        fs::write(folder.path().join("online"), "0-3").unwrap();
        Topology::read_at(folder.path()).unwrap()
    }

    const ALL: &str = "0-3";

    /// A job as Slurm makes it: (group, CPUs, nodes).
    const JOB: [(&str, &str, &str); 6] = [
        ("job_7", "0-1,4-5", ALL),
        ("job_7/step_0", "", ""),
        ("job_7/step_0/slurm", "", ""),
        ("job_7/step_0/user", "0-1,4-5", ALL),
        ("job_7/step_0/user/task_0", "", ""),
        ("job_7/step_0/user/task_1", "", "0-1"),
    ];

    fn tree(groups: &[(&str, &str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (group, cpus, mems) in groups {
            let at = root.path().join(group);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("cpuset.cpus"), format!("{cpus}\n")).unwrap();
            fs::write(at.join("cpuset.mems"), format!("{mems}\n")).unwrap();
        }
        root
    }

    fn cpusets(root: &TempDir, map: &str) -> Cpusets {
        let map = NodeMap::parse(map, &machine()).unwrap();
        let group = root.path().join("job_7");
        let groups = std::iter::once(&group);
        Cpusets::new(groups, map.pairs(), &topology(), &machine(), false)
    }

    fn has(root: &TempDir, path: &str) -> String {
        let text = fs::read_to_string(root.path().join(path)).unwrap();
        text.trim().to_owned()
    }

    type Log = Arc<Mutex<Vec<String>>>;

    /// Notes what is written, and fails where a line is `fails`.
    fn watched(root: &TempDir, cpusets: &mut Cpusets, fails: &'static str) -> Log {
        let log = Log::default();
        let (to, base) = (Arc::clone(&log), root.path().to_owned());
        cpusets.write = Box::new(move |path, text| {
            let line = format!("{} {text}", path.strip_prefix(&base).unwrap().display());
            to.lock().unwrap().push(line.clone());
            if line == fails {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            write(path, text)
        });
        log
    }

    fn taken(log: &Log) -> Vec<String> {
        std::mem::take(&mut log.lock().unwrap())
    }

    #[test]
    fn from_the_top_down_and_from_the_leaves_up() {
        let root = tree(&JOB);
        let mut cpusets = cpusets(&root, "0-1:2-3");
        let log = watched(&root, &mut cpusets, "");
        assert_eq!(cpusets.counterparts().unwrap()[&5], 7);
        cpusets.widen().unwrap();
        assert_eq!(
            taken(&log),
            [
                "job_7/cpuset.cpus 0-7",
                "job_7/step_0/user/cpuset.cpus 0-7",
                "job_7/step_0/user/task_1/cpuset.mems 0-3"
            ]
        );
        cpusets.narrow(Kind::Cpus);
        assert_eq!(
            taken(&log),
            [
                "job_7/step_0/user/cpuset.cpus 2-3,6-7",
                "job_7/cpuset.cpus 2-3,6-7",
            ]
        );
        cpusets.narrow(Kind::Mems);
        assert_eq!(taken(&log), ["job_7/step_0/user/task_1/cpuset.mems 2-3"]);
        cpusets.finish();
        assert!(!cpusets.failed() && cpusets.troubles().is_empty());
        assert_eq!(
            cpusets.to_text(),
            "2 control groups: CPUs 0-1,4-5 became 2-3,6-7\n\
             1 control group: nodes 0-1 became 2-3\n"
        );
        drop(cpusets);
        assert_eq!(taken(&log), [] as [&str; 0]);
        // Lists of all of the machine, and empty ones, are nobody's choice.
        assert_eq!(has(&root, "job_7/cpuset.mems"), ALL);
        assert_eq!(has(&root, "job_7/step_0/cpuset.cpus"), "");
    }

    #[test]
    fn whatever_ends_the_work_puts_all_back() {
        let root = tree(&JOB);
        let as_before = || {
            for (group, cpus, mems) in JOB {
                assert_eq!(has(&root, &format!("{group}/cpuset.cpus")), cpus);
                assert_eq!(has(&root, &format!("{group}/cpuset.mems")), mems);
            }
        };
        // After each step.
        for steps in 0..4 {
            let mut cpusets = cpusets(&root, "0-1:2-3");
            let log = watched(&root, &mut cpusets, "");
            cpusets.widen().unwrap();
            if steps > 0 {
                cpusets.narrow(Kind::Cpus);
            }
            if steps > 1 {
                cpusets.narrow(Kind::Mems);
            }
            taken(&log);
            if steps > 2 {
                cpusets.undo();
                assert_eq!(cpusets.troubles(), ["the cpusets are as they were before"]);
                assert_eq!(cpusets.to_json()["undone"], true);
                assert_eq!(cpusets.to_text(), "");
            }
            drop(cpusets);
            as_before();
            let written = taken(&log);
            if steps > 0 {
                // It is widened first, from the top down.
                assert_eq!(written[0], "job_7/cpuset.cpus 0-7");
                assert_eq!(written.last().unwrap(), "job_7/cpuset.cpus 0-1,4-5");
            }
        }
        // Not permitted in the middle of it.
        let mut cpusets = cpusets(&root, "0-1:2-3");
        watched(&root, &mut cpusets, "job_7/step_0/user/cpuset.cpus 0-7");
        let told = cpusets.widen().unwrap_err();
        assert!(told.contains("cannot widen") && told.contains("user/cpuset.cpus"));
        drop(cpusets);
        as_before();
    }

    #[test]
    fn what_cannot_be_narrowed_is_told() {
        let root = tree(&JOB);
        let mut cpusets = cpusets(&root, "0-1:2-3");
        watched(
            &root,
            &mut cpusets,
            "job_7/step_0/user/task_1/cpuset.mems 2-3",
        );
        cpusets.widen().unwrap();
        for kind in Kind::ALL {
            cpusets.narrow(kind);
        }
        cpusets.finish();
        assert!(cpusets.failed());
        let told = cpusets.troubles();
        assert_eq!(told.len(), 1);
        assert!(
            told[0].contains("cpuset.mems stays 0-3, not 2-3"),
            "{told:?}"
        );
        assert!(!cpusets.to_text().contains("nodes"));
        assert_eq!(cpusets.to_json()["changes"][2]["file"], "cpuset.mems");
    }

    #[test]
    fn a_group_above_that_allows_no_more() {
        let root = tree(&JOB);
        let file = root.path().join("job_7/cpuset.cpus.effective");
        fs::write(file, "0-1,4-5\n").unwrap();
        let mut cpusets = cpusets(&root, "0-1:2-3");
        let told = cpusets.widen().unwrap_err();
        assert!(told.contains("job_7 has only CPUs 0-1,4-5"), "{told}");
        drop(cpusets);
        assert_eq!(has(&root, "job_7/cpuset.cpus"), "0-1,4-5");
    }

    #[test]
    fn what_other_jobs_have_is_left_to_them() {
        let root = tree(&[
            ("job_7", "0,4", ""),
            ("job_7/step_0/user", "0", ""),
            ("job_7/step_1/user", "4", ""),
            ("job_8", "2", ""),
        ]);
        // One CPU of node 2 is free, and it is the same one for the job and its step.
        let mut cpusets = cpusets(&root, "0:2");
        cpusets.widen().unwrap();
        cpusets.narrow(Kind::Cpus);
        cpusets.finish();
        assert_eq!(has(&root, "job_7/cpuset.cpus"), "2,6");
        assert_eq!(has(&root, "job_7/step_0/user/cpuset.cpus"), "6");
        assert_eq!(has(&root, "job_7/step_1/user/cpuset.cpus"), "2");
    }

    #[test]
    fn a_group_that_goes_away() {
        let root = tree(&JOB);
        let mut cpusets = cpusets(&root, "0-1:2-3");
        cpusets.widen().unwrap();
        fs::remove_dir_all(root.path().join("job_7/step_0")).unwrap();
        for kind in Kind::ALL {
            cpusets.narrow(kind);
        }
        cpusets.finish();
        assert!(!cpusets.failed());
        assert_eq!(has(&root, "job_7/cpuset.cpus"), "2-3,6-7");
    }

    #[test]
    fn wildcards_and_dry_runs() {
        let root = tree(&[("job_7", "1", "1")]);
        assert_eq!(
            cpusets(&root, "1:any").to_text(),
            "1 control group: CPUs 1 became 0\n1 control group: nodes 1 became 0,2-3\n"
        );
        let mut dry = cpusets(&root, "all:3");
        dry.dry_run = true;
        dry.widen().unwrap();
        for kind in Kind::ALL {
            dry.narrow(kind);
        }
        assert_eq!(
            dry.to_text(),
            "1 control group: CPUs 1 would become 3\n1 control group: nodes 1 would become 3\n"
        );
        assert_eq!(has(&root, "job_7/cpuset.mems"), "1");
        // What another node has is not touched.
        assert_eq!(cpusets(&root, "0:2").to_text(), "");
    }
}
