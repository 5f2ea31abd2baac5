// SPDX-License-Identifier: GPL-2.0

//! `pagemigrate mark`

use std::io;
use std::path::Path;
use std::process::ExitCode;

use page_migrate::mark::{self, Mark, Namespace};

use crate::{text, Failure};

/// What to do with a file's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Change {
    /// Nothing that is mapped from the file moves
    None,
    /// The file's own pages stay where they are mapped read-only
    Lib,
    /// Take the mark away
    Clear,
}

// What the numbers of errno are called is the same on every Linux.
const EPERM: i32 = 1;
const ENODATA: i32 = 61;
const EOPNOTSUPP: i32 = 95;

pub(crate) fn run(file: &Path, change: Option<Change>, trusted: bool) -> Result<ExitCode, Failure> {
    let namespace = if trusted {
        Namespace::Trusted
    } else {
        Namespace::User
    };
    let done = match change {
        None => return show(file),
        Some(Change::None) => mark::set(file, namespace, Mark::None),
        Some(Change::Lib) => mark::set(file, namespace, Mark::Lib),
        Some(Change::Clear) => mark::clear(file, namespace),
    };
    done.map_err(|e| explain(file, namespace, &e))?;
    if !trusted {
        if let Ok(Some(_)) = mark::get(file, Namespace::Trusted) {
            text::complain(&format!(
                "note: {} has trusted.migrate as well, which wins",
                file.display()
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(file: &Path) -> Result<ExitCode, Failure> {
    let mut out = String::new();
    for namespace in [Namespace::Trusted, Namespace::User] {
        let value = match mark::get(file, namespace) {
            Ok(value) => value,
            // A file system without these attributes has no marks.
            Err(e) if e.raw_os_error() == Some(EOPNOTSUPP) => None,
            Err(e) => return Err(explain(file, namespace, &e).into()),
        };
        if let Some(value) = value {
            let meaning = match Mark::from_value(&value) {
                Some(_) => "",
                None => " (means nothing)",
            };
            out += &format!(
                "{}: {}{meaning}\n",
                namespace.attribute(),
                String::from_utf8_lossy(&value).escape_debug()
            );
        }
    }
    if out.is_empty() {
        out = "no mark\n".into();
    }
    text::print(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn explain(file: &Path, namespace: Namespace, error: &io::Error) -> String {
    let file = file.display();
    let hint = match (error.raw_os_error(), namespace) {
        (Some(EOPNOTSUPP), _) => "The file system has no such extended attributes.",
        // The kernel hides trusted attributes from those who may not set them.
        (Some(EPERM | ENODATA), Namespace::Trusted) => {
            "trusted.migrate needs CAP_SYS_ADMIN in the first user namespace."
        }
        (Some(EPERM), Namespace::User) => {
            "user.migrate is for regular files and folders, of which one is the owner if they \
             are sticky or immutable."
        }
        _ if error.kind() == io::ErrorKind::PermissionDenied => {
            "To mark a file one must be able to write it."
        }
        _ => "",
    };
    format!("cannot mark {file}: {error}\n{hint}")
        .trim_end()
        .to_owned()
}
