// SPDX-License-Identifier: GPL-2.0

//! The result in the OpenMetrics format, for a monitoring that reads files.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use page_migrate::page_size;
use tempfile::Builder;

use super::Report;

impl Report<'_> {
    /// Writes them into a file, all at once: who reads it finds the old ones or the new ones.
    pub(crate) fn write_metrics(&self, file: &Path) -> Result<(), String> {
        let write = || -> io::Result<()> {
            let folder = match file.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            let mut new = Builder::new()
                .prefix(".pagemigrate-")
                .permissions(Permissions::from_mode(0o644))
                .tempfile_in(folder)?;
            new.write_all(self.to_metrics().as_bytes())?;
            new.as_file().sync_all()?;
            new.persist(file)?;
            Ok(())
        };
        write().map_err(|e| format!("cannot write the metrics into {}: {e}", file.display()))
    }

    fn to_metrics(&self) -> String {
        let counts = self.total(self.outcomes()).counts;
        let mut out = String::new();
        let mut family = |name: &str, unit: &str, help: &str, samples: &[(&str, String)]| {
            out += &format!("# TYPE {name} gauge\n");
            if !unit.is_empty() {
                out += &format!("# UNIT {name} {unit}\n");
            }
            out += &format!("# HELP {name} {help}\n");
            for (labels, value) in samples {
                out += &format!("{name}{labels} {value}\n");
            }
        };
        let bytes = |pages: u64| pages.saturating_mul(page_size()).to_string();
        family(
            "pagemigrate_last_moved_bytes",
            "bytes",
            "What the last move has moved.",
            &[
                ("{to=\"named\"}", bytes(counts.moved)),
                ("{to=\"fallback\"}", bytes(counts.moved_fallback)),
            ],
        );
        family(
            "pagemigrate_last_left_behind_bytes",
            "bytes",
            "What the last move has left behind, by reason.",
            &[
                ("{reason=\"shared\"}", bytes(counts.shared)),
                ("{reason=\"busy\"}", bytes(counts.busy)),
                ("{reason=\"pinned\"}", bytes(counts.pinned)),
                ("{reason=\"unmovable\"}", bytes(counts.unmovable)),
                ("{reason=\"no_memory\"}", bytes(counts.no_memory)),
            ],
        );
        family(
            "pagemigrate_last_exempt_bytes",
            "bytes",
            "What stays because of the marks of files.",
            &[("", bytes(counts.exempt))],
        );
        family(
            "pagemigrate_last_policies",
            "",
            "Memory policies that the last move has changed.",
            &[("", counts.policies.to_string())],
        );
        family(
            "pagemigrate_last_processes",
            "",
            "Processes of the last move.",
            &[("", self.members.len().to_string())],
        );
        family(
            "pagemigrate_last_passes",
            "",
            "How often the last move went over its processes.",
            &[("", self.passes.to_string())],
        );
        family(
            "pagemigrate_last_dry_run",
            "",
            "1 if the last move was a dry run, which only counts.",
            &[("", u8::from(self.dry_run).to_string())],
        );
        family(
            "pagemigrate_last_exit_status",
            "",
            "Exit status of the last move: 0 all moved, 3 some pages were left behind.",
            &[("", self.exit_status().to_string())],
        );
        family(
            "pagemigrate_last_duration_seconds",
            "seconds",
            "How long the last move took.",
            &[("", format!("{:.6}", self.elapsed.as_secs_f64()))],
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        family(
            "pagemigrate_last_end_timestamp_seconds",
            "seconds",
            "When the last move ended.",
            &[("", now.map_or(0, |d| d.as_secs()).to_string())],
        );
        out + "# EOF\n"
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::time::Duration;

    use page_migrate::{Counts, Machine, NodeMap, Outcome, Range, Stop};

    use crate::job::Member;
    use crate::proc::Process;
    use crate::report::Report;

    /// What every reader of the format relies on.
    fn check(text: &str) {
        assert!(text.ends_with("# EOF\n"));
        let mut family = String::new();
        for line in text.lines() {
            assert_eq!(line.trim(), line);
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(kind, "gauge");
                family = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').unwrap();
                assert!(
                    name == family && name.ends_with(&format!("_{unit}")),
                    "{line}"
                );
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(rest.starts_with(&format!("{family} ")), "{line}");
            } else if line != "# EOF" {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(name.split('{').next(), Some(family.as_str()));
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn a_file_of_metrics() {
        let map = NodeMap::parse("0:1", &Machine::new(&[0, 1], &[0, 1])).unwrap();
        let mut member = Member::new(Process::new(i32::MAX));
        member.outcome = Some(Outcome {
            counts: Counts {
                moved: 3,
                busy: 2,
                ..Counts::default()
            },
            moved_by_pair: vec![3],
            returned: 2,
            stop: Stop::Returned,
            resume_va: 0,
        });
        let members = [member];
        let command: [OsString; 0] = [];
        let report = Report {
            map: &map,
            dry_run: false,
            range: Range::ALL,
            interrupted: false,
            single: true,
            members: &members,
            threads: None,
            cpusets: None,
            passes: 1,
            elapsed: Duration::from_millis(1500),
            before: None,
            after: None,
            command: &command,
            verbose: false,
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("move.prom");
        fs::write(&file, "old").unwrap();
        report.write_metrics(&file).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        check(&text);
        let page = page_migrate::page_size();
        for line in [
            format!("pagemigrate_last_moved_bytes{{to=\"named\"}} {}", 3 * page),
            format!(
                "pagemigrate_last_left_behind_bytes{{reason=\"busy\"}} {}",
                2 * page
            ),
            "pagemigrate_last_exit_status 3".into(),
            "pagemigrate_last_duration_seconds 1.500000".into(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
        // Nothing is left beside it, not even of one that could not be written.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let told = report.write_metrics(&folder.path().join("none/move.prom"));
        assert!(told.unwrap_err().contains("none/move.prom"));
        fs::create_dir(folder.path().join("folder")).unwrap();
        assert!(report.write_metrics(&folder.path().join("folder")).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
