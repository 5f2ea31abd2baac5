// SPDX-License-Identifier: GPL-2.0

//! Programs in a terminal of some width, and what a person sees there.

use std::io::Read;
use std::process::{Command, Stdio};

/// Lines of the terminal: enough that nothing leaves it at the top.
const LINES: u16 = 200;

/// What a terminal has been sent.
pub struct Screen {
    /// Exit status of the program.
    pub status: Option<i32>,
    /// As it was sent, with every sequence.
    pub raw: String,
    parser: vt100::Parser,
    width: u16,
}

/// A program that is to run in a terminal.
#[derive(Debug)]
pub struct Terminal {
    width: u16,
    env: Vec<(String, String)>,
}

impl Terminal {
    /// One with so many columns, and a locale with UTF-8.
    pub fn new(width: u16) -> Self {
        let terminal = Terminal {
            width,
            env: Vec::new(),
        };
        terminal.env("TERM", "xterm").env("LC_ALL", "C.UTF-8")
    }

    /// With a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The command that runs a line of the shell there: script(1) makes the terminal. What the
    /// environment of the tests says about colours (`CI` does, too) is not passed on.
    pub fn command(&self, line: &str) -> Command {
        let line = format!("stty cols {} rows {LINES}; {line}", self.width);
        let mut command = Command::new("script");
        for name in ["CI", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "NO_COLOR"] {
            command.env_remove(name);
        }
        command
            .args(["-q", "-e", "--echo", "always", "-c", &line, "/dev/null"])
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, line: &str) -> Screen {
        let output = self.command(line).output().unwrap();
        self.screen(output.status.code(), &output.stdout)
    }

    /// What is to be seen after some output.
    pub fn screen(&self, status: Option<i32>, sent: &[u8]) -> Screen {
        let mut parser = vt100::Parser::new(LINES, self.width, 0);
        parser.process(sent);
        Screen {
            status,
            raw: String::from_utf8_lossy(sent).into_owned(),
            parser,
            width: self.width,
        }
    }
}

/// Reads what a program prints until a text has come so many times. It must come, or the test that
/// waits for it hangs and is ended.
pub fn read_until(from: &mut impl Read, text: &str, times: usize) -> Vec<u8> {
    let mut sent = Vec::new();
    let mut buffer = [0; 4096];
    while String::from_utf8_lossy(&sent).matches(text).count() < times {
        let n = from.read(&mut buffer).unwrap();
        assert!(n > 0, "it has ended: {}", String::from_utf8_lossy(&sent));
        sent.extend(&buffer[..n]);
    }
    sent
}

impl Screen {
    /// What is on the terminal at the end, without the lines that follow the last text.
    pub fn text(&self) -> String {
        self.parser.screen().contents()
    }

    /// The same without the ends of lines, wherever these are.
    pub fn words(&self) -> String {
        let text = self.text();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Its exit status must be this.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{}", self.raw);
        self
    }

    /// No line was longer than the terminal is wide: none goes on in the next one.
    #[track_caller]
    pub fn fits(self) -> Self {
        let screen = self.parser.screen();
        for row in 0..LINES {
            assert!(
                !screen.row_wrapped(row),
                "line {row} is longer than {}:\n{}",
                self.width,
                self.text()
            );
        }
        self
    }

    /// A text is to be seen.
    #[track_caller]
    pub fn shows(self, text: &str) -> Self {
        assert!(
            self.text().contains(text),
            "no '{text}' in\n{}",
            self.text()
        );
        self
    }
}
