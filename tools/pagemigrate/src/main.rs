// SPDX-License-Identifier: GPL-2.0

//! Moves the pages of a running process between NUMA nodes.

#![forbid(unsafe_code)]

mod explain;
mod mark;
mod migrate;
mod numa_maps;
mod show;
mod text;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use page_migrate::{Device, Range};

const EXIT_LEFT_BEHIND: u8 = 3;
const EXIT_USAGE: u8 = 2;
const EXIT_ERROR: u8 = 1;

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

Exit status: 0 all moved, 3 some pages were left behind, 1 error, 2 usage.";

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
    /// Move a process's pages from old nodes to new ones
    #[command(after_help = MAP_HELP)]
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
}

#[derive(clap::Args)]
pub(crate) struct MoveArgs {
    /// Process, by any of its threads
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: i32,
    /// What goes where: OLD:NEW
    #[arg(required = true)]
    pub(crate) map: Vec<String>,
    /// Only these addresses: a page's address + bytes (K, M, G; 0x for hex)
    #[arg(long, value_name = "START+LEN", value_parser = text::parse_range)]
    pub(crate) range: Option<Range>,
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

/// What ends the command early.
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
    let done = match Cli::parse().command {
        Command::Move(args) => migrate::run(&args),
        Command::Show { pid, json } => show::run(pid, json),
        Command::Mark {
            file,
            mark,
            trusted,
        } => mark::run(&file, mark, trusted),
        Command::Info { json } => info(json),
    };
    match done {
        Ok(status) => status,
        Err(Failure::Usage(message)) => {
            eprintln!("pagemigrate: {message}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Error(message)) => {
            eprintln!("pagemigrate: {message}");
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
    use clap::CommandFactory;

    #[test]
    fn command_line() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_command_lines() {
        for line in [
            "pagemigrate",
            "pagemigrate move 1",
            "pagemigrate move 0 0:1",
            "pagemigrate move -1 0:1",
            "pagemigrate move x 0:1",
            "pagemigrate move 1 0:1 --range 1+1",
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
}
