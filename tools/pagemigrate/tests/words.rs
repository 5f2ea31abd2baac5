// SPDX-License-Identifier: GPL-2.0

//! What the command says where it needs no module: help, usage and errors, on a terminal and for
//! programs.

use std::process::{Command, Output};

use page_migrate_tests::schema;
use page_migrate_tests::terminal::Terminal;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pagemigrate");

fn run(line: &str) -> (Option<i32>, String, String) {
    let words = line.split(' ').filter(|word| !word.is_empty());
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(PROGRAM)
        .args(words)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

const HELP: [&str; 7] = [
    "--help",
    "-h",
    "move --help",
    "move -h",
    "show --help",
    "mark --help",
    "info --help",
];

#[test]
fn help_wraps() {
    for width in [40, 80, 98, 120, 200] {
        for line in HELP {
            let screen = Terminal::new(width).run(&format!("{PROGRAM} {line}"));
            let screen = screen.expect(0).fits();
            let longest = screen.text().lines().map(|l| l.chars().count()).max();
            let longest = longest.unwrap_or(0);
            assert!(
                longest <= 98,
                "{line} at {width}: {longest}\n{}",
                screen.text()
            );
            assert!(screen.text().contains("--help"), "{line} at {width}");
        }
    }
}

#[test]
fn help_in_a_pipe_wraps_too() {
    for line in HELP {
        let (status, out, _) = run(line);
        assert_eq!(status, Some(0));
        for line in out.lines() {
            assert!(line.chars().count() <= 98, "{line}");
        }
    }
}

#[test]
fn what_a_shell_would_take_is_quoted() {
    let (_, out, _) = run("move --help");
    assert!(!out.contains(';'), "{out}");
    assert!(out.contains("'!2'"), "{out}");
}

/// Lines that are refused, and with which exit status.
const ERRORS: [(&str, i32); 12] = [
    ("nonsense", 2),
    ("move", 2),
    ("move 1", 2),
    ("move 1 0-1 2-3", 2),
    ("move 1 0:0,0:1", 2),
    ("move --unknown 1 0:1", 2),
    ("move 1 0:1 --range 5", 2),
    ("show no-program-has-this-name", 1),
    ("mark /nonexistent", 1),
    ("mark /tmp none", 1),
    ("move 1 0:1023", 1),
    ("info", 1),
];

#[test]
fn errors_wrap() {
    for width in [40, 80, 120] {
        for (line, status) in ERRORS {
            let screen = Terminal::new(width).run(&format!("{PROGRAM} {line}"));
            let screen = screen.expect(status).fits();
            assert!(screen.text().starts_with("pagemigrate: "), "{line}");
        }
    }
}

#[test]
fn one_style_of_errors() {
    let (status, _, err) = run("");
    assert_eq!(status, Some(2));
    assert!(
        err.starts_with("Move the pages") && err.contains("Usage:"),
        "{err}"
    );
    for (line, status) in ERRORS {
        let (told, out, err) = run(line);
        assert_eq!(told, Some(status), "{line}: {err}");
        assert_eq!(out, "", "{line}");
        assert!(err.starts_with("pagemigrate: "), "{line}: {err}");
        assert!(!err.contains("error:"), "{line}: {err}");
        let (told, out, err) = run(&format!("{line} --json"));
        assert_eq!(told, Some(status), "{line}");
        let json = schema::parse(&out);
        let error = &json["error"];
        assert_eq!(error["exit_status"], status, "{json}");
        assert_eq!(error["kind"], if status == 2 { "usage" } else { "error" });
        let first = error["message"].as_str().unwrap().lines().next().unwrap();
        assert!(err.contains(first), "{err}\n{json}");
    }
}

#[test]
fn colours() {
    let line = format!("{PROGRAM} move 1");
    let red = "\x1b[31m";
    assert!(Terminal::new(80).run(&line).raw.contains(red));
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let screen = Terminal::new(80).env(name, value).run(&line);
        assert!(!screen.raw.contains('\x1b'), "{name}: {:?}", screen.raw);
    }
    assert!(!run("move 1").2.contains('\x1b'));
}

#[test]
fn the_schema_refuses_what_it_should() {
    for text in [
        r#"{"schema":1,"command":"mark","file":"f"}"#,
        r#"{"schema":2,"command":"move","error":{"kind":"usage","message":"m","exit_status":2}}"#,
        r#"{"schema":1,"command":"move","error":{"kind":"odd","message":"m","exit_status":2}}"#,
        r#"{"schema":1,"command":"move","error":{"kind":"usage","message":"m","exit_status":2},"x":1}"#,
        "{}",
        "[]",
    ] {
        let document = serde_json::from_str(text).unwrap();
        assert!(!schema::errors(&document).is_empty(), "{text}");
    }
}
