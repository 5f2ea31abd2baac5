// SPDX-License-Identifier: GPL-2.0

//! Moves the pages of a running process between NUMA nodes.

#![forbid(unsafe_code)]
// They panic if they cannot write. There are text::print() and text::complain().
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod explain;
mod generate;
mod mark;
mod migrate;
mod numa_maps;
mod processes;
mod report;
mod show;
mod signals;
mod text;
mod threads;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use page_migrate::{Device, Range};

use crate::processes::{cgroup_folder, Selection};

/// Ended by a second signal, as a shell tells it of SIGINT.
const EXIT_SIGNALS: u8 = 130;
const EXIT_LEFT_BEHIND: u8 = 3;
const EXIT_USAGE: u8 = 2;
const EXIT_ERROR: u8 = 1;

const MOVE_USAGE: &str = "\
pagemigrate move [OPTIONS] PID[,PID]... MAP...
       pagemigrate move [OPTIONS] --cgroup PATH MAP...";

const MAP_HELP: &str = "\
Maps are OLD:NEW, with a node list on each side:
  0-1:2-3   0 to 2 and 1 to 3 (also 0,1:2,3): lists of equal length pair up by
            position, in the order in which they are written
  0-1:3     both to 3: a single new node serves all old ones
  0:1 1:0   a swap; several maps are separated by spaces or ';'
  all:3     every node to 3 (also any:3); other maps take their nodes out of it
  2:any     away from 2, to the nearest node with room
Node lists are those of numactl: 0-3,5; all (every node with memory); !2 (all
but 2); +0-1 (the first two of the nodes that may be used here).

Ctrl-C ends the move and tells how far it got; another one ends the command at
once.

Exit status: 0 all moved, 3 some pages were left behind, 1 error, 2 usage, 130
ended by a second signal.";

/// Move the pages of running processes between NUMA nodes.
///
/// Works through the device of the kernel module page_migrate.
#[derive(Parser)]
#[command(name = "pagemigrate", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Move the pages of processes from old nodes to new ones
    ///
    /// All processes are one job: a page that several of them map moves once.
    #[command(after_help = MAP_HELP, override_usage = MOVE_USAGE)]
    Move(MoveArgs),
    /// Show on which nodes a process has its memory
    Show {
        /// Process
        #[arg(value_parser = clap::value_parser!(i32).range(1..))]
        pid: i32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Mark a file, so that its pages stay where they are
    ///
    /// none: nothing that is mapped from the file moves. lib: the file's own
    /// pages stay where they are mapped without write permission; private
    /// copies and writable mappings move. clear: takes the mark away. Without
    /// a mark, shows the one that the file has.
    Mark {
        /// File
        file: std::path::PathBuf,
        /// What to set
        #[arg(value_enum)]
        mark: Option<mark::Change>,
        /// Use trusted.migrate, which wins over user.migrate (needs CAP_SYS_ADMIN)
        #[arg(long)]
        trusted: bool,
    },
    /// Show what the module can do
    Info {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write manual pages and completions into a folder
    #[command(hide = true)]
    Generate {
        /// Folder
        folder: PathBuf,
    },
}

#[derive(clap::Args, Default)]
pub(crate) struct MoveArgs {
    /// Processes, by any of their threads, and what goes where: OLD:NEW
    #[arg(required = true, value_name = "PID[,PID]... MAP")]
    pub(crate) words: Vec<String>,
    /// Processes, instead of or beside those before the map
    #[arg(long = "pid", value_name = "PID[,PID]...", value_delimiter = ',',
        value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pids: Vec<i32>,
    /// And all their descendants
    #[arg(long)]
    pub(crate) children: bool,
    /// All processes of a control group (version 2) and of those below it
    #[arg(long = "cgroup", value_name = "PATH")]
    pub(crate) cgroups: Vec<PathBuf>,
    /// Move the threads' CPUs along, before the pages
    ///
    /// A thread that may run on CPUs of old nodes only gets those of the nodes
    /// to which the map sends their pages; so does one without a choice of its
    /// own that runs there.
    #[arg(long)]
    pub(crate) threads: bool,
    /// Go over the processes until nothing is left, but N times at most
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) passes: u32,
    /// Only these addresses: a page's address + bytes (K, M, G; 0x for hex)
    #[arg(long, value_name = "START+LEN", value_parser = text::parse_range)]
    pub(crate) range: Option<Range>,
    /// Leave memory policies as they are
    #[arg(long)]
    pub(crate) keep_policy: bool,
    /// Count what would move, change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// No fallback to another new node where the named one is full
    #[arg(long)]
    pub(crate) strict: bool,
    /// Leave pages that other processes map too
    #[arg(long)]
    pub(crate) exclusive: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl MoveArgs {
    /// The processes and the text of the map.
    fn resolve(&self) -> Result<(Selection, String), Failure> {
        // A list of processes has no colon, a map has one.
        let is_map = |word: &&String| word.contains(':');
        let first = self.words.iter().position(|word| is_map(&word));
        let (lists, maps) = self.words.split_at(first.unwrap_or(self.words.len()));
        let mut pids = Vec::new();
        for word in lists.iter().flat_map(|list| list.split(',')) {
            match word.parse() {
                Ok(pid) if pid > 0 => pids.push(pid),
                _ => return Err(Failure::Usage(format!("'{word}' is no process ID"))),
            }
        }
        pids.extend(&self.pids);
        if maps.is_empty() {
            return Err(Failure::Usage(
                "there is no map: write OLD:NEW behind the processes, like 0-1:2-3".into(),
            ));
        }
        if pids.is_empty() && self.cgroups.is_empty() {
            return Err(Failure::Usage(
                "there is no process: write PID before the map, or --cgroup PATH".into(),
            ));
        }
        if pids.is_empty() && self.children {
            return Err(Failure::Usage("--children of what? Name a process".into()));
        }
        let cgroups = self
            .cgroups
            .iter()
            .map(|path| cgroup_folder(path))
            .collect::<Result<_, _>>()?;
        let selection = Selection {
            pids,
            children: self.children,
            cgroups,
        };
        Ok((selection, maps.join(" ")))
    }
}

/// What ends the command early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// Something did not work.
    Error(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure::Error(message)
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => return help_or_usage(&told),
    };
    let done = match cli.command {
        Command::Move(args) => migrate::run(&args),
        Command::Show { pid, json } => show::run(pid, json),
        Command::Mark {
            file,
            mark,
            trusted,
        } => mark::run(&file, mark, trusted),
        Command::Info { json } => info(json),
        Command::Generate { folder } => {
            generate::run(Cli::command(), &folder).map(|()| ExitCode::SUCCESS)
        }
    };
    match done {
        Ok(status) => status,
        Err(Failure::Usage(message)) => {
            text::complain(&message);
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Error(message)) => {
            text::complain(&message);
            ExitCode::from(EXIT_ERROR)
        }
    }
}

/// Prints what clap has to tell: help and version on stdout, what is wrong on stderr.
fn help_or_usage(told: &clap::Error) -> ExitCode {
    let printed = told.print().and_then(|()| io::stdout().flush());
    if told.use_stderr() {
        return ExitCode::from(EXIT_USAGE);
    }
    match text::printed(printed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            text::complain(&message);
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn info(json: bool) -> Result<ExitCode, Failure> {
    let info = Device::open()
        .and_then(|device| device.info())
        .map_err(|e| explain::device(&e))?;
    let flags = info.flag_names();
    if json {
        text::print(&format!(
            "{:#}\n",
            serde_json::json!({
                "max_nodes": info.max_nodes,
                "max_workers": info.max_workers,
                "flags": flags,
            })
        ))?;
    } else {
        text::print(&format!(
            "nodes are below:  {}\nworkers at most:  {}\nflags:            {}\n",
            info.max_nodes,
            info.max_workers,
            flags.join(" ")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_command_lines() {
        for line in [
            "pagemigrate",
            "pagemigrate move",
            "pagemigrate move -1 0:1",
            "pagemigrate move --pid 0 0:1",
            "pagemigrate move --pid x 0:1",
            "pagemigrate move 1 0:1 --range 1+1",
            "pagemigrate move 1 0:1 --passes 0",
            "pagemigrate mark f other",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        for line in [
            "pagemigrate move 1 0:1 1:0 --dry-run",
            "pagemigrate move 1 --range 0x1000+4K 0:1",
            "pagemigrate mark f",
            "pagemigrate mark f clear --trusted",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    fn resolve(line: &str) -> Result<(Selection, String), Failure> {
        match Cli::try_parse_from(format!("pagemigrate move {line}").split(' ')) {
            Ok(Cli {
                command: Command::Move(args),
            }) => args.resolve(),
            other => panic!("{line}: {:?}", other.err()),
        }
    }

    #[test]
    fn processes_and_maps() {
        for (line, pids, map) in [
            ("7 0:1", vec![7], "0:1"),
            ("7 0:1 1:0", vec![7], "0:1 1:0"),
            ("7,8 0:1", vec![7, 8], "0:1"),
            ("7 8,9 0:1", vec![7, 8, 9], "0:1"),
            ("--pid 7,8 0:1", vec![7, 8], "0:1"),
            ("--pid 7 --pid 8 0:1", vec![7, 8], "0:1"),
            ("6 0:1 --pid 7", vec![6, 7], "0:1"),
            ("7 --children 0,1:2,3", vec![7], "0,1:2,3"),
        ] {
            let (selection, text) = resolve(line).unwrap();
            assert_eq!(selection.pids, pids, "{line}");
            assert_eq!(text, map, "{line}");
        }
        assert!(resolve("7 0:1").unwrap().0.is_single());
        assert!(!resolve("7 --children 0:1").unwrap().0.is_single());
        assert!(!resolve("7,8 0:1").unwrap().0.is_single());
    }

    #[test]
    fn no_processes_or_no_maps() {
        for line in [
            "7",
            "7 8",
            "0:1",
            "0 0:1",
            "x 0:1",
            "7, 0:1",
            "0-1 0:1",
            "0:1 7 --children",
        ] {
            // A word behind the map belongs to the map, which says so itself.
            let done = resolve(line);
            assert!(matches!(done, Err(Failure::Usage(_))), "{line}: {done:?}");
        }
        let done = resolve("--cgroup /nonexistent/group 0:1");
        assert!(matches!(done, Err(Failure::Error(_))), "{done:?}");
    }
}
