// SPDX-License-Identifier: GPL-2.0

//! The command `pagemigrate` on terminals of several widths.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use page_migrate_tests::cli::Cli;
use page_migrate_tests::terminal::{read_until, Terminal};
use page_migrate_tests::{be_target_if_asked, clean_up, memory_nodes, page, signal, Tap, Target};

const WIDTHS: [u16; 3] = [40, 80, 120];
const MANY: usize = 8 * 4096;

fn main() {
    be_target_if_asked();
    let mut tap = Tap::new();
    let nodes = memory_nodes();
    let (a, b) = (nodes[0], nodes[1]);
    let program = Cli::root().program.display().to_string();
    let part = format!("{a}:{MANY}");
    let range = |t: &Target| format!("{:#x}+{}", t.parts[0], MANY * page());

    tap.test("the bar fits, and nothing of it stays", || {
        let target = Target::start(&[&part], 0);
        let (mut from, mut to) = (a, b);
        for width in WIDTHS {
            let line = format!(
                "{program} move {} {from}:{to} --range {} --rate 100M",
                target.pid(),
                range(&target)
            );
            let terminal = Terminal::new(width);
            let screen = terminal.run(&line).expect(0).fits();
            assert!(screen.raw.contains('█'), "{}", screen.raw);
            let text = screen.text();
            assert!(
                !text.contains('%') && !text.contains('█'),
                "{width}:\n{text}"
            );
            let told = screen.words();
            assert!(told.contains(&format!("moved {MANY} pages")), "{text}");
            assert_eq!(target.nodes(0, 1), [to as i32]);
            (from, to) = (to, from);
        }
    });

    tap.test(
        "ASCII where the locale is, no bar on a dumb terminal",
        || {
            let target = Target::start(&[&part], 0);
            let line = |map: &str, more: &str| {
                format!(
                    "{program} move {} {map} --range {}{more}",
                    target.pid(),
                    range(&target)
                )
            };
            let there = line(&format!("{a}:{b}"), " --rate 100M");
            let ascii = Terminal::new(80).env("LC_ALL", "C").run(&there).expect(0);
            assert!(
                ascii.raw.is_ascii() && ascii.raw.contains('%'),
                "{}",
                ascii.raw
            );
            let back = line(&format!("{b}:{a}"), "");
            let dumb = Terminal::new(80).env("TERM", "dumb").run(&back).expect(0);
            assert!(
                !dumb.raw.contains('%') && !dumb.raw.contains('\x1b'),
                "{:?}",
                dumb.raw
            );
            let there = line(&format!("{a}:{b}"), " --progress none");
            let none = Terminal::new(80).run(&there).expect(0);
            assert!(!none.raw.contains('%'), "{}", none.raw);
            let back = line(&format!("{b}:{a}"), " -q --rate 100M");
            let quiet = Terminal::new(80).run(&back).expect(0);
            assert_eq!(quiet.raw, "");
        },
    );

    tap.test("Ctrl-C: no dead line, and the command that goes on", || {
        for width in WIDTHS {
            let target = Target::start(&[&part], 0);
            let terminal = Terminal::new(width);
            let line = format!(
                "exec {program} move {} {a}:{b} --range {} --rate 8M",
                target.pid(),
                range(&target)
            );
            let mut command = terminal.command(&line);
            // script(1) is to be left alone by the signal.
            let mut child = command
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdout = child.stdout.take().unwrap();
            // The bar has been drawn, and moves.
            let mut sent = read_until(&mut stdout, "%", 3);
            // What the user types: the terminal shows ^C, and sends the signal.
            io::Write::write_all(child.stdin.as_mut().unwrap(), b"\x03").unwrap();
            stdout.read_to_end(&mut sent).unwrap();
            let status = child.wait().unwrap().code();
            let screen = terminal.screen(status, &sent).expect(130);
            assert!(
                screen.raw.contains("█") || screen.raw.contains('░'),
                "{}",
                screen.raw
            );
            let text = screen.text();
            for left in ["█", "░", "%", "^C"] {
                assert!(
                    !text.contains(left),
                    "{width}: {left}:\n{text}\n{:?}",
                    screen.raw
                );
            }
            let told = screen.words();
            assert!(
                told.contains("interrupted; what has moved stays moved"),
                "{text}"
            );
            let line = line.trim_start_matches("exec ");
            assert!(
                screen.raw.contains(&format!("  {line}\r\n")),
                "{}",
                screen.raw
            );
        }
    });

    tap.test("a second signal leaves no bar either", || {
        let target = Target::start(&[&part], 0);
        let terminal = Terminal::new(80);
        let line = format!(
            "{program} move {} {a}:{b} --range {} --rate 4K --passes 1 & wait $!",
            target.pid(),
            range(&target)
        );
        let mut command = terminal.command(&line);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut sent = read_until(&mut stdout, "%", 3);
        let pids = Command::new("pgrep").args(["-x", "pagemigrate"]).output();
        let pids = String::from_utf8(pids.unwrap().stdout).unwrap();
        for pid in pids.split_whitespace() {
            signal(pid.parse().unwrap(), libc::SIGTERM);
        }
        stdout.read_to_end(&mut sent).unwrap();
        let status = child.wait().unwrap().code();
        let screen = terminal.screen(status, &sent).expect(130);
        assert!(!screen.text().contains('%'), "{}", screen.text());
    });

    tap.test("tables fit", || {
        let one = Target::start(&[&format!("{a},{b}:512")], 0);
        let two = Target::start(&[&format!("{b}:512")], 0);
        let both = format!("{},{}", one.pid(), two.pid());
        for width in WIDTHS {
            for line in [
                format!("show {}", one.pid()),
                format!("show {both}"),
                format!("show {} --maps", one.pid()),
            ] {
                let screen = Terminal::new(width).run(&format!("{program} {line}"));
                let screen = screen.expect(0).fits();
                assert!(
                    screen.text().contains("total"),
                    "{width}:\n{}",
                    screen.text()
                );
            }
            let line = format!("{program} move --dry-run {both} {a}:{b}");
            let screen = Terminal::new(width).run(&line).expect(0).fits();
            for word in ["process", "left", "before", "would be"] {
                assert!(screen.text().contains(word), "{word}:\n{}", screen.text());
            }
        }
        for width in WIDTHS {
            let line = format!("{program} info");
            let screen = Terminal::new(width).run(&line).expect(0).fits();
            for word in ["command:", "module:", env!("CARGO_PKG_VERSION")] {
                assert!(screen.text().contains(word), "{word}:\n{}", screen.text());
            }
        }
        let ascii = Terminal::new(80).env("LC_ALL", "C");
        let ascii = ascii.run(&format!("{program} show {both}")).expect(0);
        assert!(ascii.raw.is_ascii(), "{}", ascii.raw);
    });

    tap.test("colour, where it is wanted", || {
        let target = Target::start(&["0:64"], 0);
        let line = format!("{program} move {} {a}:{b}", target.pid());
        let sgr = |raw: &str| raw.contains("\x1b[32m") || raw.contains("\x1b[33m");
        let colour = Terminal::new(80).run(&line);
        assert!(sgr(&colour.raw), "{:?}", colour.raw);
        let line = format!("{program} move {} {b}:{a}", target.pid());
        let none = Terminal::new(80).env("NO_COLOR", "1").run(&line);
        assert!(!sgr(&none.raw), "{:?}", none.raw);
        let line = format!("{program} move {} 0 1", target.pid());
        let wrong = Terminal::new(80).run(&line).expect(2);
        assert!(
            wrong.raw.contains("\x1b[1m\x1b[31mpagemigrate:"),
            "{:?}",
            wrong.raw
        );
    });

    tap.test("show --watch: again and again, until it has exited", || {
        let target = Target::start(&[&format!("{a}:512")], 0);
        let terminal = Terminal::new(80);
        let line = format!("{program} show {} --watch=0.3", target.pid());
        let mut command = terminal.command(&line);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut sent = read_until(&mut stdout, "\x1b[H\x1b[2J", 2);
        drop(target);
        stdout.read_to_end(&mut sent).unwrap();
        let screen = terminal.screen(child.wait().unwrap().code(), &sent);
        let screen = screen.expect(0).fits();
        // The last one is what is left to be seen.
        assert_eq!(
            screen.text().matches("node").count(),
            1,
            "{}",
            screen.text()
        );
    });

    clean_up();
    tap.finish();
}
