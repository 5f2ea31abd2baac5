// SPDX-License-Identifier: GPL-2.0

//! Runs the command `pagemigrate`, which is beside the test programs.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::{own_program, public_copy, schema, NOBODY};

/// The command, run by some user.
#[derive(Debug)]
pub struct Cli {
    /// Its path.
    pub program: PathBuf,
    uid: u32,
}

/// What a run of the command left behind.
#[derive(Debug)]
pub struct Done {
    /// Exit status.
    pub status: i32,
    /// stdout
    pub out: String,
    /// stderr
    pub err: String,
}

impl Cli {
    /// Run by root.
    pub fn root() -> Self {
        Cli {
            program: own_program().with_file_name("pagemigrate"),
            uid: 0,
        }
    }

    /// Run by an ordinary user.
    pub fn nobody() -> Self {
        Cli {
            program: public_copy(&Self::root().program),
            uid: NOBODY,
        }
    }

    /// Runs a line of words.
    pub fn run(&self, line: &str) -> Done {
        self.args(&line.split(' ').collect::<Vec<_>>())
    }

    /// Runs words that may have blanks in them.
    pub fn args(&self, args: &[&str]) -> Done {
        done(&mut self.command(args))
    }

    /// What would run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("LC_ALL", "C.UTF-8");
        if self.uid != 0 {
            command.uid(self.uid).gid(self.uid);
        }
        command
    }
}

/// Runs a program to its end.
pub fn done(command: &mut Command) -> Done {
    Done::from(command.output().unwrap())
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Done {
            status: output.status.code().expect("ended by a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Done {
    /// Its status must be this.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(
            self.status, status,
            "stdout: {}\nstderr: {}",
            self.out, self.err
        );
        self
    }

    /// Checks that it has moved all that it may: what programs share, such as libraries, may lie on
    /// an old node, and stays where the caller has no right to move it.
    #[track_caller]
    pub fn expect_all_but_shared(self) -> Self {
        if self.status == 3 {
            let left: Vec<_> = self
                .out
                .lines()
                .skip_while(|l| !l.starts_with("left behind:"))
                .collect();
            assert!(
                left.len() == 2 && left[1].contains("shared with other processes"),
                "{}",
                self.out
            );
            return self;
        }
        self.expect(0)
    }

    /// What it printed, which must be as its schema says.
    #[track_caller]
    pub fn json(&self) -> Value {
        schema::parse(&self.out)
    }

    /// A word must be on stderr.
    #[track_caller]
    pub fn says(self, word: &str) -> Self {
        assert!(
            self.err.contains(word),
            "no '{word}' on stderr: {}",
            self.err
        );
        self
    }
}

/// A cgroup, gone when it is dropped. Its processes must be gone by then.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// One with a cpuset of its own.
    pub fn new(mems: &str) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        if !root.join("cgroup.controllers").exists() {
            let mounted = Command::new("mount")
                .args(["-t", "cgroup2", "none", "/sys/fs/cgroup"])
                .status();
            assert!(mounted.unwrap().success(), "mount cgroup2");
        }
        fs::write(root.join("cgroup.subtree_control"), "+cpuset").unwrap();
        let path = root.join(format!("page_migrate-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("cpuset.mems"), mems).unwrap();
        Cgroup(path)
    }

    /// One below it.
    pub fn below(&self, name: &str) -> Self {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        Cgroup(path)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes one of its files.
    pub fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap_or_else(|e| panic!("{file}: {value}: {e}"));
    }

    /// Ends all of its processes, and waits until they are gone.
    pub fn kill(&self) {
        self.set("cgroup.kill", "1");
        while fs::read_to_string(self.0.join("cgroup.events"))
            .unwrap()
            .contains("populated 1")
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Takes a process in.
    pub fn enter(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
