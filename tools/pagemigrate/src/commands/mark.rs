// SPDX-License-Identifier: GPL-2.0

//! `pagemigrate mark`

use std::io;
use std::path::Path;

use page_migrate::mark::{self, Mark, Namespace};
use serde_json::{json, Map};

use crate::cli::Change;
use crate::exit::Failure;
use crate::report::SCHEMA;
use crate::term;

// What the numbers of errno are called is the same on every Linux.
const EPERM: i32 = 1;
const ENODATA: i32 = 61;
const EOPNOTSUPP: i32 = 95;

/// What was to be done with the mark, for messages.
#[derive(Clone, Copy)]
enum Doing {
    Read,
    Write,
}

pub(crate) fn run(
    file: &Path,
    change: Option<Change>,
    trusted: bool,
    json: bool,
) -> Result<u8, Failure> {
    let namespace = if trusted {
        Namespace::Trusted
    } else {
        Namespace::User
    };
    let done = match change {
        None => return show(file, json),
        Some(change) => {
            refuse_folders(file)?;
            match change {
                Change::None => mark::set(file, namespace, Mark::None),
                Change::Lib => mark::set(file, namespace, Mark::Lib),
                Change::Clear => mark::clear(file, namespace),
            }
        }
    };
    done.map_err(|e| explain(file, namespace, Doing::Write, &e))?;
    if !trusted {
        if let Ok(Some(_)) = mark::get(file, Namespace::Trusted) {
            term::note(&format!(
                "{} has trusted.migrate as well, which wins",
                file.display()
            ));
        }
    }
    if json {
        return show(file, json);
    }
    Ok(0)
}

/// Nothing maps a folder, and what lies in it does not inherit its mark.
fn refuse_folders(file: &Path) -> Result<(), String> {
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(format!(
            "{} is a folder: mark the files in it, each by itself (find {} -type f -exec \
             pagemigrate mark {{}} lib ';')",
            file.display(),
            file.display()
        )),
        // If it cannot be looked at, the attempt to mark it says why.
        _ => Ok(()),
    }
}

fn show(file: &Path, as_json: bool) -> Result<u8, Failure> {
    let mut out = String::new();
    let mut marks = Map::new();
    let mut effect = None;
    for namespace in [Namespace::Trusted, Namespace::User] {
        let value = match mark::get(file, namespace) {
            Ok(value) => value,
            // A file system without these attributes has no marks.
            Err(e) if e.raw_os_error() == Some(EOPNOTSUPP) => None,
            Err(e) => return Err(explain(file, namespace, Doing::Read, &e).into()),
        };
        let text = value.as_deref().map(String::from_utf8_lossy);
        marks.insert(namespace.attribute().into(), json!(text));
        if let (Some(value), Some(text)) = (&value, &text) {
            let meaning = match Mark::from_value(value) {
                Some(_) => "",
                None => " (means nothing)",
            };
            out += &format!(
                "{}: {}{meaning}\n",
                namespace.attribute(),
                text.escape_debug()
            );
            // The first one that is there counts, even one that means nothing.
            effect.get_or_insert(Mark::from_value(value));
        }
    }
    if out.is_empty() {
        out = "no mark\n".into();
    }
    if as_json {
        out = format!(
            "{:#}\n",
            json!({
                "schema": SCHEMA,
                "command": "mark",
                "file": file.to_string_lossy(),
                "marks": marks,
                "effect": effect.flatten().map(Mark::as_str),
            })
        );
    }
    term::print(&out)?;
    Ok(0)
}

fn explain(file: &Path, namespace: Namespace, doing: Doing, error: &io::Error) -> String {
    let file = file.display();
    let what = match doing {
        Doing::Read => "read the mark of",
        Doing::Write => "mark",
    };
    let hint = match (error.raw_os_error(), namespace) {
        (Some(EOPNOTSUPP), _) => "The file system has no such extended attributes.",
        // The kernel hides trusted attributes from those who may not set them.
        (Some(EPERM | ENODATA), Namespace::Trusted) => {
            "trusted.migrate needs CAP_SYS_ADMIN in the first user namespace."
        }
        (Some(EPERM), Namespace::User) => {
            "user.migrate is for regular files that are not immutable."
        }
        _ if error.kind() == io::ErrorKind::PermissionDenied => match doing {
            Doing::Read => "To read its mark you must be able to read the file.",
            Doing::Write => "To mark a file you must be able to write it.",
        },
        _ => "",
    };
    format!("cannot {what} {file}: {error}\n{hint}")
        .trim_end()
        .to_owned()
}
