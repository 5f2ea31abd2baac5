// SPDX-License-Identifier: GPL-2.0

//! Moves the pages of running processes between NUMA nodes.

#![forbid(unsafe_code)]
// They panic if they cannot write. There are term::print() and term::complain().
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod commands;
mod errors;
mod exit;
mod generate;
mod job;
mod proc;
mod report;
mod signals;
mod term;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde_json::{json, Value};

use crate::cli::{Cli, Command};
use crate::commands::{info, mark, migratepages, move_pages, show};
use crate::exit::Failure;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if migratepages::is_meant(words.first().map(OsString::as_os_str)) {
        return migrate_pages(&words);
    }
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(told) => return help_or_usage(&told, &words),
    };
    let done = match &cli.command {
        Command::Move(args) => move_pages::run(args, &words),
        Command::Show(args) => show::run(args),
        Command::Mark {
            file,
            mark,
            trusted,
            json,
        } => mark::run(file, *mark, *trusted, *json),
        Command::Info { json } => info::run(*json),
        Command::Generate { folder } => generate::run(Cli::command(), folder),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(failure) => fail(&failure, cli.command.json().then(|| cli.command.name())),
    }
}

/// The command under the name of numactl's.
fn migrate_pages(words: &[OsString]) -> ExitCode {
    let done = migratepages::args(words.get(1..).unwrap_or_default()).and_then(|args| match args {
        Some(args) => move_pages::run(&args, words),
        None => Ok(0),
    });
    match done {
        Ok(status) => ExitCode::from(status),
        Err(failure) => fail(&failure, None),
    }
}

/// Tells what went wrong: people on stderr and, where a program reads stdout, it as well.
fn fail(failure: &Failure, command: Option<&str>) -> ExitCode {
    if let Some(command) = command {
        // If this cannot be written either, the exit status still says that it went wrong.
        let _ = term::print(&format!("{:#}\n", error_to_json(failure, Some(command))));
    }
    term::complain(failure.message());
    ExitCode::from(failure.status())
}

fn error_to_json(failure: &Failure, command: Option<&str>) -> Value {
    json!({
        "schema": report::SCHEMA,
        "command": command,
        "error": {
            "kind": failure.kind(),
            "message": failure.message(),
            "exit_status": failure.status(),
        },
    })
}

/// Prints what clap has to tell: help and version on stdout, what is wrong on stderr.
fn help_or_usage(told: &clap::Error, words: &[OsString]) -> ExitCode {
    // Whoever gives no word at all is told what there is.
    if told.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        term::say(&told.render().ansi().to_string());
        return ExitCode::from(exit::USAGE);
    }
    if told.use_stderr() {
        let text = told.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        let failure = Failure::Usage(text.to_owned());
        if words.iter().any(|word| word == "--json") {
            let _ = term::print(&format!("{:#}\n", error_to_json(&failure, None)));
        }
        term::complain(failure.message());
        return ExitCode::from(failure.status());
    }
    let printed = told.print().and_then(|()| io::stdout().flush());
    match term::printed(printed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&Failure::Error(message), None),
    }
}
