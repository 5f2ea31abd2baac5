// SPDX-License-Identifier: GPL-2.0

//! The processes of a Slurm job on this machine, as slurmd's control groups tell them apart.
//!
//! Below a scope whose name depends on how Slurm was built (`slurmstepd.scope`,
//! `NODENAME_slurmstepd.scope`) each job has a group, and in it each step:
//! `job_N/step_S/user/task_T`. What is not below `user` is Slurm's own: `step_S/slurm` has
//! slurmstepd.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{cgroup_root, folders, in_cgroup, name, stat, NO_CGROUPS};
use crate::exit::Failure;

/// How Slurm's scopes end.
const SCOPE: &str = "slurmstepd.scope";

/// How deep below the root of all groups they are looked for: they are in system.slice.
const DEPTH: usize = 3;

/// Slurm's own program that starts a step. It runs among the processes of the batch script.
const STARTER: &str = "srun";

/// How long `scontrol` may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A job or one of its steps, as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobId {
    job: u32,
    step: Option<String>,
}

impl FromStr for JobId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (job, step) = match text.split_once('.') {
            Some((job, step)) => (job, Some(step)),
            None => (text, None),
        };
        if job.contains(['_', '+']) {
            return Err(
                "write the number that the job has for itself: squeue -o '%A %i' shows both".into(),
            );
        }
        let is_step = |step: &str| {
            !step.is_empty() && step.chars().all(|c| c.is_ascii_alphanumeric() || c == '+')
        };
        match job.parse() {
            Ok(job) if job > 0 && step.is_none_or(is_step) => Ok(JobId {
                job,
                step: step.map(Into::into),
            }),
            _ => Err("write JOBID or JOBID.STEP, like 1234, 1234.0 or 1234.batch".into()),
        }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Some(step) => write!(f, "{}.{step}", self.job),
            None => write!(f, "{}", self.job),
        }
    }
}

/// A job that has processes here, or had.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    id: JobId,
    /// `job_N`, or the step's group below it. There is more than one where several slurmd run on
    /// one machine.
    groups: Vec<PathBuf>,
}

impl Job {
    /// Finds the job's groups.
    pub(crate) fn find(id: &JobId) -> Result<Self, Failure> {
        let root = cgroup_root().ok_or_else(|| Failure::Error(NO_CGROUPS.into()))?;
        Self::find_below(id, &root)
    }

    fn find_below(id: &JobId, root: &Path) -> Result<Self, Failure> {
        let mut scopes = Vec::new();
        find_scopes(root, DEPTH, &mut scopes);
        if scopes.is_empty() {
            return Err(Failure::Error(format!(
                "Slurm has no control group *{SCOPE} below {}: slurmd does not run here, or not \
                 with control groups of version 2 (ProctrackType=proctrack/cgroup)",
                root.display()
            )));
        }
        let jobs = scopes
            .iter()
            .map(|scope| scope.join(format!("job_{}", id.job)));
        let jobs: Vec<PathBuf> = jobs.filter(|folder| folder.is_dir()).collect();
        if jobs.is_empty() {
            return Err(Failure::Error(format!(
                "Slurm's job {} does not run on this machine (scontrol show job {} tells where)",
                id.job, id.job
            )));
        }
        let Some(step) = &id.step else {
            return Ok(Job {
                id: id.clone(),
                groups: jobs,
            });
        };
        let steps = jobs.iter().map(|job| job.join(format!("step_{step}")));
        let groups: Vec<PathBuf> = steps.filter(|folder| folder.is_dir()).collect();
        if groups.is_empty() {
            let there: BTreeSet<String> = jobs.iter().flat_map(|job| steps_of(job)).collect();
            let there: Vec<&str> = there.iter().map(String::as_str).collect();
            return Err(Failure::Error(format!(
                "Slurm's job {} has no step {step} on this machine; its steps here: {}",
                id.job,
                there.join(", ")
            )));
        }
        Ok(Job {
            id: id.clone(),
            groups,
        })
    }

    /// The groups that hold all of it.
    pub(crate) fn groups(&self) -> &[PathBuf] {
        &self.groups
    }

    /// The user's processes, by now.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut pids = self.all();
        pids.retain(|pid| name(*pid).as_deref() != Some(STARTER));
        pids
    }

    /// The same with `srun`.
    fn all(&self) -> Vec<i32> {
        let one = |group: &PathBuf| {
            if self.id.step.is_some() {
                return in_cgroup(&group.join("user"));
            }
            steps_of(group)
                .iter()
                .flat_map(|step| in_cgroup(&group.join(format!("step_{step}/user"))))
                .collect()
        };
        self.groups.iter().flat_map(one).collect()
    }

    /// Asks Slurm which processes the job has. Says so where it knows others than the control
    /// groups have, or does not answer. The control groups are what the kernel goes by.
    pub(crate) fn compare(&self) -> Option<String> {
        let before: BTreeSet<i32> = self.all().into_iter().collect();
        let id = &self.id;
        let told = match ask(Command::new("scontrol").args(["listpids", &id.to_string()])) {
            Ok(told) => told,
            Err(why) => {
                return Some(format!(
                    "scontrol listpids {id} {why}: taking the processes of {}",
                    self.groups[0].display()
                ))
            }
        };
        let after: BTreeSet<i32> = self.all().into_iter().collect();
        // Processes come and go: only those that were there all the time must be in both lists.
        let known = listed(&told);
        let missing = before
            .intersection(&after)
            .filter(|pid| !known.contains(pid));
        let missing: Vec<i32> = missing.copied().collect();
        // Slurm also lists slurmstepd, which is beside the user's processes.
        let groups = self.groups.iter().flat_map(|group| in_cgroup(group));
        let groups: BTreeSet<i32> = groups.chain(before.iter().copied()).collect();
        let unknown = known
            .iter()
            .filter(|pid| !groups.contains(pid) && stat(**pid).is_some());
        let unknown: Vec<i32> = unknown.copied().collect();
        differences(&missing, &unknown)
            .map(|what| format!("scontrol listpids {id} {what}: taking those of the control group"))
    }
}

fn differences(missing: &[i32], unknown: &[i32]) -> Option<String> {
    let list = crate::term::list;
    match (missing, unknown) {
        ([], []) => None,
        (missing, []) => Some(format!("does not name {}", list(missing))),
        ([], unknown) => Some(format!("also names {}", list(unknown))),
        (missing, unknown) => Some(format!(
            "does not name {}, but {}",
            list(missing),
            list(unknown)
        )),
    }
}

/// The first column of what `scontrol listpids` prints, below its title.
fn listed(text: &str) -> BTreeSet<i32> {
    let words = text.lines().filter_map(|l| l.split_whitespace().next());
    let numbers = words.filter_map(|word| word.parse().ok());
    numbers.filter(|pid| *pid > 0).collect()
}

/// What a program prints, if it ends well and in time. Or what went wrong, behind its name.
fn ask(command: &mut Command) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => "cannot be asked, since there is no scontrol".into(),
            _ => format!("cannot be asked ({e})"),
        })?;
    let mut stdout = child.stdout.take().ok_or("has no output")?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let read = stdout.read_to_end(&mut text).map(|_| text);
        // Nobody may wait for it any more.
        let _ = tell.send(read);
    });
    let read = told.recv_timeout(PATIENCE);
    if read.is_err() {
        // It may have ended by now.
        let _ = child.kill();
    }
    let status = child.wait();
    match (read, status) {
        (Ok(Ok(text)), Ok(status)) if status.success() => {
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        (Err(_), _) => Err("does not answer".into()),
        _ => Err("fails".into()),
    }
}

fn find_scopes(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for (name, path) in folders(folder) {
        if name == SCOPE || name.ends_with(&format!("_{SCOPE}")) {
            found.push(path);
        } else if depth > 1 {
            find_scopes(&path, depth - 1, found);
        }
    }
}

/// The names of a job's steps.
fn steps_of(job: &Path) -> Vec<String> {
    folders(job)
        .into_iter()
        .filter_map(|(name, _)| name.strip_prefix("step_").map(Into::into))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn id(text: &str) -> JobId {
        text.parse().unwrap()
    }

    #[test]
    fn how_jobs_are_named() {
        for text in ["1", "1234.0", "7.batch", "7.extern", "7.0+1"] {
            assert_eq!(id(text).to_string(), text);
        }
        for text in ["", "0", "-1", "x", "1.", ".0", "1.../..", "1.a/b", "1.0.1"] {
            assert!(text.parse::<JobId>().is_err(), "{text}");
        }
        let told = "7_3".parse::<JobId>().unwrap_err();
        assert!(told.contains("squeue"), "{told}");
    }

    /// A tree like that of slurmd: (group below the root, its processes).
    fn tree(groups: &[(&str, &[i32])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (group, pids) in groups {
            let folder = root.path().join(group);
            fs::create_dir_all(&folder).unwrap();
            let lines: Vec<String> = pids.iter().map(|pid| format!("{pid}\n")).collect();
            fs::write(folder.join("cgroup.procs"), lines.concat()).unwrap();
        }
        root
    }

    /// Numbers that no process has.
    const A: i32 = 2_000_000_001;

    #[test]
    fn only_what_is_the_users() {
        for scope in ["slurmstepd.scope", "n1_slurmstepd.scope"] {
            let at = |rest: &str| format!("system.slice/{scope}/{rest}");
            let root = tree(&[
                (&at("system/"), &[A + 90]),
                (&at("job_7/step_batch/slurm"), &[A + 91]),
                (&at("job_7/step_batch/user/task_0"), &[A]),
                (&at("job_7/step_0/slurm"), &[A + 92]),
                (&at("job_7/step_0/user/task_0"), &[A + 1, A + 2]),
                (&at("job_7/step_0/user/task_1"), &[A + 3]),
                (&at("job_70/step_0/user/task_0"), &[A + 93]),
            ]);
            let find = |text: &str| Job::find_below(&id(text), root.path());
            let all = find("7").unwrap();
            assert_eq!(all.processes(), [A + 1, A + 2, A + 3, A]);
            assert_eq!(all.groups(), [root.path().join(at("job_7"))]);
            let step = find("7.0").unwrap();
            assert_eq!(step.processes(), [A + 1, A + 2, A + 3]);
            assert_eq!(step.groups(), [root.path().join(at("job_7/step_0"))]);
            assert_eq!(find("7.batch").unwrap().processes(), [A]);
            let told = |text: &str| find(text).unwrap_err().message().to_owned();
            assert!(told("7.1").ends_with("its steps here: 0, batch"));
            assert!(told("8").contains("does not run on this machine"));
            // What comes later is found as well.
            let late = root.path().join(at("job_7/step_1/user/task_0"));
            fs::create_dir_all(&late).unwrap();
            fs::write(late.join("cgroup.procs"), format!("{}\n", A + 4)).unwrap();
            assert!(all.processes().contains(&(A + 4)));
        }
    }

    #[test]
    fn several_slurmd_on_one_machine() {
        let root = tree(&[
            ("system.slice/a_slurmstepd.scope/job_7/step_0/user", &[A]),
            (
                "system.slice/b_slurmstepd.scope/job_7/step_0/user",
                &[A + 1],
            ),
        ]);
        let job = Job::find_below(&id("7.0"), root.path()).unwrap();
        assert_eq!(job.processes(), [A, A + 1]);
        assert_eq!(job.groups().len(), 2);
    }

    #[test]
    fn without_slurm() {
        let root = tree(&[("system.slice/cron.service", &[A])]);
        let told = Job::find_below(&id("7"), root.path()).unwrap_err();
        assert!(told.message().contains("slurmd does not run here"));
    }

    #[test]
    fn what_slurm_lists() {
        let text = "PID      JOBID    STEPID   LOCALID GLOBALID\n\
                    703      7        batch    0       0\n\
                    -1       7        1        -       -\n\
                    704      7        batch    -       -\n";
        assert_eq!(listed(text), BTreeSet::from([703, 704]));
        assert_eq!(differences(&[], &[]), None);
        assert_eq!(differences(&[1], &[2]).unwrap(), "does not name 1, but 2");
    }

    #[test]
    fn programs_that_are_asked() {
        assert_eq!(ask(Command::new("echo").arg("12")), Ok("12\n".into()));
        assert_eq!(ask(&mut Command::new("false")), Err("fails".into()));
        let missing = ask(&mut Command::new("/nonexistent/scontrol"));
        assert!(missing.unwrap_err().contains("no scontrol"));
    }
}
