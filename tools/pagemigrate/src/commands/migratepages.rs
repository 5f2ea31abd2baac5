// SPDX-License-Identifier: GPL-2.0

//! The command under the name `migratepages`: it takes what migratepages(8) of numactl takes,
//! so that scripts need no change.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use page_migrate::Machine;

use crate::cli::{MoveArgs, ProgressKind};
use crate::exit::Failure;
use crate::term;

const NAME: &str = "migratepages";

const USAGE: &str = "\
usage: migratepages PID FROM-NODES TO-NODES

Moves all pages of a process from some nodes to others, as migratepages(8) of
numactl does: node lists are those of numactl (0-3,5; all; '!2'; +0-1). The
lowest node of FROM-NODES goes to the lowest of TO-NODES, and so on; where there
are fewer new nodes, they are taken in turn. Memory policies move along.

This is pagemigrate under another name: see 'pagemigrate move --help'.
";

/// Whether the command was started under that name.
pub(crate) fn is_meant(program: Option<&OsStr>) -> bool {
    program.and_then(|path| Path::new(path).file_name()) == Some(OsStr::new(NAME))
}

/// What to do instead; `None` if the user has got help.
pub(crate) fn args(words: &[OsString]) -> Result<Option<MoveArgs>, Failure> {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    match words[..] {
        ["-h" | "--help" | "-?"] => {
            term::print(USAGE)?;
            Ok(None)
        }
        ["-v" | "-V" | "--version"] => {
            term::print(&format!("pagemigrate {}\n", env!("CARGO_PKG_VERSION")))?;
            Ok(None)
        }
        [pid, from, to] => {
            let machine = Machine::read()
                .map_err(|e| Failure::Error(format!("cannot read the machine's nodes: {e}")))?;
            Ok(Some(MoveArgs {
                words: vec![pid.into(), map(from, to, &machine)?],
                passes: 3,
                quiet: true,
                progress: ProgressKind::None,
                no_room_check: true,
                ..MoveArgs::default()
            }))
        }
        _ => Err(Failure::Usage(USAGE.trim_end().to_owned())),
    }
}

/// The map for two lists of nodes, paired by their ranks.
fn map(from: &str, to: &str, machine: &Machine) -> Result<String, Failure> {
    let nodes = |text: &str| {
        let mut nodes = machine
            .parse_nodes(text)
            .map_err(|e| Failure::Usage(e.to_string()))?;
        nodes.sort_unstable();
        nodes.dedup();
        Ok::<_, Failure>(nodes)
    };
    let (from, to) = (nodes(from)?, nodes(to)?);
    let pairs = from.iter().zip(to.iter().cycle());
    let words: Vec<String> = pairs.map(|(old, new)| format!("{old}:{new}")).collect();
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (program, meant) in [
            ("migratepages", true),
            ("/usr/bin/migratepages", true),
            ("pagemigrate", false),
            ("/migratepages/pagemigrate", false),
        ] {
            assert_eq!(is_meant(Some(OsStr::new(program))), meant, "{program}");
        }
        assert!(!is_meant(None));
    }

    #[test]
    fn by_rank_as_the_kernel_does() {
        let machine = Machine::new(&[0, 1, 2, 3], &[0, 1, 2, 3]);
        for (from, to, expected) in [
            ("0", "1", "0:1"),
            ("0-1", "2-3", "0:2 1:3"),
            ("1,0", "3,2", "0:2 1:3"),
            ("0-2", "3", "0:3 1:3 2:3"),
            ("0-2", "2-3", "0:2 1:3 2:2"),
            ("all", "0", "0:0 1:0 2:0 3:0"),
            ("!3", "3", "0:3 1:3 2:3"),
        ] {
            assert_eq!(map(from, to, &machine).unwrap(), expected, "{from} {to}");
        }
        assert!(map("x", "1", &machine).is_err());
        assert!(map("0", "", &machine).is_err());
    }

    #[test]
    fn exactly_three_words() {
        for words in [
            &[][..],
            &["1"],
            &["1", "0"],
            &["1", "0", "1", "2"],
            &["--json", "1"],
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert!(matches!(args(&words), Err(Failure::Usage(_))), "{words:?}");
        }
    }
}
