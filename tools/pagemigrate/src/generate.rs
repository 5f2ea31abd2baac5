// SPDX-License-Identifier: GPL-2.0

//! Manual pages and completions, from the definition of the command line.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::aot::{generate_to, Shell};
use clap_mangen::Man;

use crate::exit::Failure;

/// Writes `man8/*.8` and the completions of three shells into `folder`.
pub(crate) fn run(command: Command, folder: &Path) -> Result<u8, Failure> {
    write(command, folder)
        .map(|()| 0)
        .map_err(|e| Failure::Error(format!("{}: {e}", folder.display())))
}

fn write(mut command: Command, folder: &Path) -> io::Result<()> {
    let man = folder.join("man8");
    fs::create_dir_all(&man)?;
    // A page about "pagemigrate help" would say nothing.
    let mut pages = command.clone().disable_help_subcommand(true);
    pages.build();
    page(&pages, &man)?;
    for sub in pages.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        page(sub, &man)?;
    }
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut command, "pagemigrate", folder)?;
    }
    Ok(())
}

/// One page. The synopsis and the notes are those of `--help`, line by line, which
/// clap_mangen would fill.
fn page(command: &Command, folder: &Path) -> io::Result<()> {
    // "pagemigrate-move", which is the name of the page as well.
    let name = command.get_display_name().unwrap_or(command.get_name());
    let man = Man::new(command.clone())
        .section("8")
        .source(format!("pagemigrate {}", env!("CARGO_PKG_VERSION")))
        .manual("page_migrate");
    let mut file = File::create(folder.join(format!("{name}.8")))?;
    man.render_title(&mut file)?;
    man.render_name_section(&mut file)?;
    let usage = command.clone().render_usage().to_string();
    let usage = usage.replacen("Usage: ", "", 1).replace("\n       ", "\n");
    verbatim("SYNOPSIS", &usage, &mut file)?;
    man.render_description_section(&mut file)?;
    man.render_options_section(&mut file)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut file)?;
    }
    if let Some(notes) = command.get_after_long_help().or(command.get_after_help()) {
        verbatim("NOTES", &notes.to_string(), &mut file)?;
    }
    writeln!(
        file,
        ".SH SEE ALSO\n.BR pagemigrate (8),\n.BR page_migrate (4)"
    )
}

fn verbatim(title: &str, text: &str, file: &mut File) -> io::Result<()> {
    writeln!(file, ".SH {title}\n.nf")?;
    for line in text.trim_end().lines() {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that begins with one of these would be a request.
        let guard = if line.trim().is_empty() || line.starts_with(['.', '\'']) {
            "\\&"
        } else {
            ""
        };
        writeln!(file, "{guard}{line}")?;
    }
    writeln!(file, ".fi")
}
