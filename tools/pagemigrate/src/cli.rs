// SPDX-License-Identifier: GPL-2.0

//! The command line: what there is, and what the words of a user mean.
//!
//! Everything that describes the command to a user is here, in clap's form.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use page_migrate::{page_size, Machine, Range};

use crate::exit::Failure;
use crate::proc::slurm::{Job, JobId};
use crate::proc::{cgroup_folder, Selection};

/// Longer lines are hard to read.
const WIDEST: usize = 98;

// clap does not wrap these lines.
const MOVE_USAGE: &str = "\
pagemigrate move [OPTIONS]
           PID[,PID]... MAP...
       pagemigrate move [OPTIONS]
           --cgroup PATH MAP...
       pagemigrate move [OPTIONS]
           --slurm JOBID[.STEP] MAP...";
const SHOW_USAGE: &str = "\
pagemigrate show [OPTIONS]
           PID|NAME...
       pagemigrate show [OPTIONS]
           --cgroup PATH
       pagemigrate show [OPTIONS]
           --slurm JOBID[.STEP]";
const MARK_USAGE: &str = "\
pagemigrate mark [OPTIONS]
           FILE [MARK]";

const MAP_HELP: &str = "\
A map is OLD:NEW, with a list of nodes on each side:
  0-1:2-3   0 to 2 and 1 to 3
  0,1:3,2   0 to 3 and 1 to 2: lists of equal length pair up by position
  0-1:3     both to 3
  0:1 1:0   a swap: several maps are separated by spaces
  all:3     every node to 3, less those that another map names
  2:any     away from 2, to the nearest node with room

Lists of nodes are those of numactl:
  0-3,5     these nodes
  all       every node with memory
  '!2'      all but 2 (in quotes, since a shell may take the ! for itself)
  +0-1      the first two of the nodes that may be used here

Ctrl-C ends the move, tells how far it got, and prints the command that goes on. A second one ends the command at once.

Exit status: 0 all moved, 1 error, 2 usage, 3 some pages were left behind or, of a job whose pages have all moved, some CPUs or cpusets, 130 a signal ended it.";

/// Move the pages of running processes between NUMA nodes.
///
/// Works through the device of the kernel module page_migrate.
#[derive(Parser)]
#[command(
    name = "pagemigrate",
    version,
    propagate_version = true,
    max_term_width = WIDEST
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Move the pages of processes from old nodes to new ones
    ///
    /// All processes are one job: a page that several of them map moves once.
    #[command(after_help = MAP_HELP, override_usage = MOVE_USAGE)]
    Move(MoveArgs),
    /// Show on which nodes processes have their memory
    #[command(override_usage = SHOW_USAGE)]
    Show(ShowArgs),
    /// Mark a file, so that its pages stay where they are
    ///
    /// none: nothing that is mapped from the file moves. lib: the file's own
    /// pages stay where they are mapped without write permission; private
    /// copies and writable mappings move. clear: takes the mark away. Without
    /// a mark, shows the one that the file has.
    #[command(override_usage = MARK_USAGE)]
    Mark {
        /// File
        file: PathBuf,
        /// What to set
        #[arg(value_enum)]
        mark: Option<Change>,
        /// Use trusted.migrate, which wins over user.migrate (needs CAP_SYS_ADMIN)
        #[arg(long)]
        trusted: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what the module can do, and the nodes of this machine
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

impl Command {
    /// As it is called on the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Command::Move(_) => "move",
            Command::Show(_) => "show",
            Command::Mark { .. } => "mark",
            Command::Info { .. } => "info",
            Command::Generate { .. } => "generate",
        }
    }

    /// Whether a program reads what is printed.
    pub(crate) fn json(&self) -> bool {
        match self {
            Command::Move(args) => args.json,
            Command::Show(args) => args.json,
            Command::Mark { json, .. } | Command::Info { json } => *json,
            Command::Generate { .. } => false,
        }
    }
}

/// What to do with a file's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Change {
    /// Nothing that is mapped from the file moves
    None,
    /// The file's own pages stay where they are mapped read-only
    Lib,
    /// Take the mark away
    Clear,
}

/// How the work at hand is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressKind {
    /// A bar where stderr is a terminal that can show one
    #[default]
    Auto,
    /// A line of JSON on stderr, twice a second
    Json,
    /// Nothing
    None,
}

#[derive(Args, Default)]
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
    ///
    /// PATH is a folder, a path below the root of all groups, or the name of a unit of
    /// systemd, like web.service.
    #[arg(long = "cgroup", value_name = "PATH")]
    pub(crate) cgroups: Vec<PathBuf>,
    /// All processes of a Slurm job, or of one of its steps, on this machine
    ///
    /// Those of the user: neither slurmstepd nor srun. STEP is a number or a name
    /// like batch.
    #[arg(long = "slurm", value_name = "JOBID[.STEP]")]
    pub(crate) jobs: Vec<JobId>,
    /// Move the threads' CPUs along, before the pages
    ///
    /// A thread that may run on CPUs of old nodes only gets those of the nodes
    /// to which the map sends their pages, and so does one without a choice of
    /// its own that runs there.
    #[arg(long)]
    pub(crate) threads: bool,
    /// Move the cpusets of the control groups along, and the threads' CPUs
    ///
    /// The groups of --cgroup or --slurm, and those below them, first get the new
    /// nodes and as many of their CPUs, from the top down. When all has moved,
    /// they lose the old ones, from the leaves up. After an error or a signal, they
    /// are as they were. A list that has all of the machine stays.
    #[arg(long)]
    pub(crate) cpuset: bool,
    /// Go over the processes until nothing is left, but N times at most
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) passes: u32,
    /// Only these addresses: START+BYTES, or START-END as in /proc/PID/maps
    ///
    /// BYTES may end in K, M, G or T. A number with 0x is hexadecimal, and those
    /// of START-END always are.
    #[arg(long, value_name = "RANGE", value_parser = parse_range)]
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
    /// Move at most that many bytes a second (K, M, G)
    #[arg(long, value_name = "BYTES/s", value_parser = parse_rate)]
    pub(crate) rate: Option<u64>,
    /// Begin even where the new nodes cannot have room for all
    #[arg(long)]
    pub(crate) no_room_check: bool,
    /// Print only what went wrong
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Print also what each node had before and has after
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// How to show the work at hand
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub(crate) progress: ProgressKind,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the result into a file, too, in the OpenMetrics format
    #[arg(long, value_name = "FILE")]
    pub(crate) openmetrics: Option<PathBuf>,
}

#[derive(Args, Default)]
pub(crate) struct ShowArgs {
    /// Processes, by their numbers or by their names
    #[arg(value_name = "PID|NAME", value_delimiter = ',')]
    pub(crate) processes: Vec<String>,
    /// And all their descendants
    #[arg(long)]
    pub(crate) children: bool,
    /// All processes of a control group (version 2) and of those below it
    #[arg(long = "cgroup", value_name = "PATH")]
    pub(crate) cgroups: Vec<PathBuf>,
    /// All processes of a Slurm job, or of one of its steps, on this machine
    #[arg(long = "slurm", value_name = "JOBID[.STEP]")]
    pub(crate) jobs: Vec<JobId>,
    /// Show each mapping, the largest first
    #[arg(long)]
    pub(crate) maps: bool,
    /// Show it again every few seconds, until the processes have exited
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
        default_missing_value = "2", value_parser = parse_interval)]
    pub(crate) watch: Option<f64>,
    /// Print JSON; with --watch, one line each time
    #[arg(long)]
    pub(crate) json: bool,
}

impl MoveArgs {
    /// The processes and the text of the map.
    pub(crate) fn resolve(&self) -> Result<(Selection, String), Failure> {
        // A list of processes has no colon, a map has one.
        let first = self.words.iter().position(|word| word.contains(':'));
        let (lists, maps) = self.words.split_at(first.unwrap_or(self.words.len()));
        if maps.is_empty() {
            return Err(Failure::Usage(no_map(lists)));
        }
        let mut pids = Vec::new();
        for word in lists.iter().flat_map(|list| list.split(',')) {
            match word.parse() {
                Ok(pid) if pid > 0 => pids.push(pid),
                _ => return Err(Failure::Usage(format!("'{word}' is not a process ID"))),
            }
        }
        pids.extend(&self.pids);
        if pids.is_empty() && self.cgroups.is_empty() && self.jobs.is_empty() {
            return Err(Failure::Usage(
                "no process is named: write PID before the map, or --cgroup PATH, or --slurm JOBID"
                    .into(),
            ));
        }
        if self.cpuset && self.cgroups.is_empty() && self.jobs.is_empty() {
            return Err(Failure::Usage(
                "--cpuset needs --cgroup or --slurm: a process alone may share its cpuset with \
                 others"
                    .into(),
            ));
        }
        let selection = selection(pids, self.children, &self.cgroups, &self.jobs)?;
        Ok((selection, maps.join(" ")))
    }
}

impl ShowArgs {
    /// The processes, with the numbers of those that have one of the names.
    pub(crate) fn resolve(&self) -> Result<Selection, Failure> {
        let mut pids = Vec::new();
        for word in &self.processes {
            match word.parse::<i32>() {
                Ok(pid) if pid > 0 => pids.push(pid),
                Ok(_) => return Err(Failure::Usage(format!("'{word}' is not a process ID"))),
                Err(_) => match crate::proc::named(word) {
                    found if found.is_empty() => {
                        return Err(Failure::Error(format!(
                            "no process has the name '{word}' (names are those that ps -e shows)"
                        )))
                    }
                    found => pids.extend(found),
                },
            }
        }
        if pids.is_empty() && self.cgroups.is_empty() && self.jobs.is_empty() {
            return Err(Failure::Usage(
                "no process is named: write PID, the name of a program, --cgroup PATH or --slurm \
                 JOBID"
                    .into(),
            ));
        }
        selection(pids, self.children, &self.cgroups, &self.jobs)
    }
}

fn selection(
    pids: Vec<i32>,
    children: bool,
    cgroups: &[PathBuf],
    jobs: &[JobId],
) -> Result<Selection, Failure> {
    if pids.is_empty() && children {
        return Err(Failure::Usage(
            "--children needs a process whose descendants are meant".into(),
        ));
    }
    let cgroups = cgroups
        .iter()
        .map(|path| cgroup_folder(path))
        .collect::<Result<_, _>>()?;
    let jobs = jobs.iter().map(Job::find).collect::<Result<_, _>>()?;
    Ok(Selection {
        pids,
        children,
        cgroups,
        jobs,
    })
}

/// Words without a map: what the user may have meant.
fn no_map(words: &[String]) -> String {
    let quoted = |word: &str| {
        shlex::try_quote(word).map_or_else(|_| word.to_owned(), std::borrow::Cow::into_owned)
    };
    // The shell makes of 0->2 the word "0-", and a file with the name 2.
    for word in words {
        if let Some((old, new)) = word.split_once("->") {
            return format!("'{word}' is not a map: write {old}:{new}");
        }
        if let Some(old) = word.strip_suffix('-') {
            return format!(
                "'{word}' is not a map. If you wrote '{old}->NODE', the shell took the '>' and \
                 wrote the output into a file: write {old}:NODE"
            );
        }
    }
    // As migratepages(8) has it.
    let machine = Machine::new(&[], &[]);
    let is_list = |word: &str| {
        let digits = word.trim_start_matches(['!', '+']);
        word == "all" || machine.parse_nodes(digits).is_ok()
    };
    if let [pid, old, new] = words {
        if is_list(old) && is_list(new) {
            return format!(
                "there is no map: write the old and the new nodes as one word, like\n  \
                 pagemigrate move {} {}",
                quoted(pid),
                quoted(&format!("{old}:{new}"))
            );
        }
    }
    "there is no map: write OLD:NEW after the processes, like 0-1:2-3".into()
}

/// `START+BYTES`, each a decimal number or one in hex with `0x`, BYTES with an
/// optional K, M, G or T; or `START-END`, both in hex.
fn parse_range(text: &str) -> Result<Range, String> {
    let page = page_size();
    let (start, len) = if let Some((start, end)) = text.split_once('-') {
        let hex = |text: &str| parse_digits(text.strip_prefix("0x").unwrap_or(text), 16, text);
        let (start, end) = (hex(start)?, hex(end)?);
        if end <= start {
            return Err("END must be larger than START".into());
        }
        (start, end - start)
    } else {
        let (start, len) = text.split_once('+').ok_or(
            "write START+BYTES, like 0x7f0000000000+64M, or START-END, like \
             7f0000000000-7f0004000000",
        )?;
        (parse_number(start)?, parse_size(len)?)
    };
    if start % page != 0 {
        return Err(format!("START must be a multiple of the page size, {page}"));
    }
    if len == 0 {
        return Err("the range must not be empty".into());
    }
    Ok(Range { start, len })
}

fn parse_digits(digits: &str, radix: u32, whole: &str) -> Result<u64, String> {
    // from_str_radix() would take a sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return Err(format!("'{whole}' is not a number"));
    }
    u64::from_str_radix(digits, radix).map_err(|_| format!("'{whole}' is not a number"))
}

fn parse_number(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x") {
        Some(digits) => parse_digits(digits, 16, text),
        None => parse_digits(text, 10, text),
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let units = [('k', 10), ('m', 20), ('g', 30), ('t', 40)];
    let shift = text.chars().last().and_then(|last| {
        let last = last.to_ascii_lowercase();
        units.into_iter().find(|(unit, _)| *unit == last)
    });
    let (digits, shift) = match shift {
        // The unit is one byte long.
        Some((_, shift)) => (text.get(..text.len() - 1).unwrap_or_default(), shift),
        None => (text, 0),
    };
    parse_number(digits)?
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{text}' is too large"))
}

/// Bytes a second: `100M`, `100M/s`, `100MiB/s`.
fn parse_rate(text: &str) -> Result<u64, String> {
    let size = text.strip_suffix("/s").unwrap_or(text);
    let size = size.strip_suffix("iB").unwrap_or(size);
    match parse_size(size) {
        Ok(rate) if rate >= page_size() => Ok(rate),
        Ok(_) => Err(format!("at least one page a second, {} bytes", page_size())),
        Err(e) => Err(format!("{e}; write bytes a second, like 100M or 2G/s")),
    }
}

fn parse_interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86400.0).contains(&seconds) => Ok(seconds),
        _ => Err("write seconds, 0.1 to 86400".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

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
            "pagemigrate move 1 0:1 --rate 0",
            "pagemigrate move 1 0:1 --rate fast",
            "pagemigrate move 1 0:1 -q -v",
            "pagemigrate move 1 0:1 --progress loud",
            "pagemigrate show 1 --watch=0",
            "pagemigrate mark f other",
            "pagemigrate move --slurm x 0:1",
            "pagemigrate move --slurm 7_1 0:1",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        for line in [
            "pagemigrate move 1 0:1 1:0 --dry-run",
            "pagemigrate move 1 --range 0x1000+4K 0:1",
            "pagemigrate move 1 --range 7f0000001000-7f0000003000 0:1",
            "pagemigrate move 1 0:1 --rate 100MiB/s -v --progress=json",
            "pagemigrate show 1 --watch",
            "pagemigrate show --watch=0.5 1,2 sleep --maps",
            "pagemigrate mark f",
            "pagemigrate mark f clear --trusted",
            "pagemigrate move --slurm 7.batch --cpuset 0:1",
            "pagemigrate show --slurm 7",
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
            "7 --cpuset 0:1",
        ] {
            // A word behind the map belongs to the map, which says so itself.
            let done = resolve(line);
            assert!(matches!(done, Err(Failure::Usage(_))), "{line}: {done:?}");
        }
        let done = resolve("--cgroup /nonexistent/group 0:1");
        assert!(matches!(done, Err(Failure::Error(_))), "{done:?}");
    }

    #[test]
    fn what_was_meant_is_suggested() {
        for (line, hint) in [
            ("7 0-1 2-3", "pagemigrate move 7 0-1:2-3"),
            ("7 !2 3", "pagemigrate move 7 '!2:3'"),
            ("7 all 3", "pagemigrate move 7 all:3"),
            ("7 0->2", "write 0:2"),
            ("7 0-", "write 0:NODE"),
            ("7", "like 0-1:2-3"),
        ] {
            match resolve(line) {
                Err(Failure::Usage(told)) => assert!(told.contains(hint), "{line}: {told}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn ranges() {
        let page = page_size();
        let range = |start, len| Ok(Range { start, len });
        assert_eq!(parse_range(&format!("{page}+1")), range(page, 1));
        assert_eq!(
            parse_range("0x7f0000000000+64M"),
            range(0x7f00_0000_0000, 64 << 20)
        );
        assert_eq!(parse_range("0+0x2000"), range(0, 0x2000));
        assert_eq!(parse_range("0+1g"), range(0, 1 << 30));
        assert_eq!(parse_range("0+18446744073709551615"), range(0, u64::MAX));
        // As a line of /proc/PID/maps begins.
        assert_eq!(parse_range("10000-20000"), range(0x10000, 0x10000));
        assert_eq!(parse_range("0x10000-0x20000"), range(0x10000, 0x10000));
        for text in [
            "",
            "0",
            "+",
            "0+",
            "+1",
            "0+0",
            "1+1",
            "0+-1",
            "0++1",
            "x+1",
            "0x+1",
            "0+1KK",
            "0+99999999999T",
            "0+K",
            "0+1\u{e9}",
            "-",
            "1000-",
            "-1000",
            "2000-1000",
            "1000-1000",
            "1001-2000",
            "0-g",
            "0--1",
        ] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(parse_rate("100M"), Ok(100 << 20));
        assert_eq!(parse_rate("1g/s"), Ok(1 << 30));
        assert_eq!(parse_rate("64KiB/s"), Ok(64 << 10));
        assert_eq!(parse_rate("1048576"), Ok(1 << 20));
        for text in ["", "0", "1", "M", "/s", "iB", "x", "-1M"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
