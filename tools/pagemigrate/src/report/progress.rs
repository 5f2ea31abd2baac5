// SPDX-License-Identifier: GPL-2.0

//! How far a move is, while it is at work.

use std::io;
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use page_migrate::{page_size, Device};
use serde_json::json;

use super::SCHEMA;
use crate::cli::ProgressKind;
use crate::term;

/// How often programs are told.
const EACH: Duration = Duration::from_millis(500);

/// Columns that a bar leaves free. What a terminal writes for Ctrl-C, at whatever place of the line,
/// must not begin a new line: the one above would stay.
const ECHO: u16 = 3;

/// How often a second the bar is drawn at most.
const HZ: u8 = 20;

/// Where it is shown.
pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines { begun: Instant, next: Instant },
}

/// How much there is, in pages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amount {
    pub(crate) total: u64,
    /// What is done with, though it did not move.
    pub(crate) settled: u64,
}

impl Progress {
    /// None where nobody wants it, or could see it.
    pub(crate) fn new(kind: ProgressKind, quiet: bool, total: u64) -> Option<Self> {
        match kind {
            ProgressKind::None => None,
            ProgressKind::Json => Some(Progress::Lines {
                begun: Instant::now(),
                next: Instant::now(),
            }),
            ProgressKind::Auto if quiet => None,
            ProgressKind::Auto => {
                let width = term::live_width()?;
                let bar = bar(total, width, term::is_utf8(), Term::stderr());
                Some(Progress::Bar(bar))
            }
        }
    }

    /// Whether somebody will be shown something.
    pub(crate) fn wanted(kind: ProgressKind, quiet: bool) -> bool {
        match kind {
            ProgressKind::None => false,
            ProgressKind::Json => true,
            ProgressKind::Auto => !quiet && term::live_width().is_some(),
        }
    }

    /// Shows how far it is by now.
    pub(crate) fn show(&mut self, device: &Device, amount: Amount) {
        let Ok(progress) = device.progress() else {
            return;
        };
        let mut done = progress.moved.saturating_add(amount.settled);
        if progress.running {
            done = done.saturating_add(progress.left);
        }
        match self {
            Progress::Bar(bar) => {
                let done = done.saturating_mul(page_size());
                // Later passes meet the same pages again.
                bar.set_position(done.max(bar.position()).min(bar.length().unwrap_or(done)));
                if progress.left > 0 {
                    bar.set_message(format!("{} left behind", progress.left));
                }
            }
            Progress::Lines { begun, next } => {
                let now = Instant::now();
                if now < *next {
                    return;
                }
                *next = now + EACH;
                term::say(&format!(
                    "{}\n",
                    json!({
                        "schema": SCHEMA,
                        "event": "progress",
                        "seconds": begun.elapsed().as_secs_f64(),
                        "moved": progress.moved,
                        "left_behind": progress.left,
                        "done": done.min(amount.total),
                        "total": amount.total,
                        "page_size": page_size(),
                    })
                ));
            }
        }
    }

    /// Takes the bar away. Nothing of it stays on the terminal.
    pub(crate) fn clear(&self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Clears the line that the cursor is in: a terminal may have written what stands for Ctrl-C there
/// after the bar had gone.
pub(crate) fn clear_line() {
    // If it fails, nobody sees that line.
    let _ = Term::stderr().clear_line();
}

/// What fits into a line.
fn template(width: usize) -> &'static str {
    match width {
        0..=29 => "{percent:>3}%",
        30..=59 => "{wide_bar} {percent:>3}%  {eta}",
        60..=99 => {
            "{wide_bar} {percent:>3}%  {binary_bytes}/{binary_total_bytes}  eta {eta}  {msg}"
        }
        _ => {
            "{wide_bar} {percent:>3}%  {binary_bytes}/{binary_total_bytes}  \
             {binary_bytes_per_sec}  eta {eta}  {msg}"
        }
    }
}

/// A terminal that seems to have a few columns less than it has.
#[derive(Debug)]
struct Narrower<T>(T);

impl<T: TermLike> TermLike for Narrower<T> {
    fn width(&self) -> u16 {
        self.0.width().saturating_sub(ECHO)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

fn bar(total: u64, width: usize, utf8: bool, terminal: impl TermLike + 'static) -> ProgressBar {
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(Narrower(terminal)), HZ);
    let bar = ProgressBar::with_draw_target(Some(total.saturating_mul(page_size())), target);
    if let Ok(style) = ProgressStyle::with_template(template(width)) {
        bar.set_style(style.progress_chars(if utf8 { "█░" } else { "#-" }));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;

    #[test]
    fn a_bar_fits_into_one_line() {
        for width in [20, 40, 80, 120, 200] {
            for utf8 in [true, false] {
                let terminal = InMemoryTerm::new(4, width);
                let bar = bar(1 << 24, usize::from(width), utf8, terminal.clone());
                bar.set_message("123456789 left behind");
                bar.set_position(1 << 30);
                bar.tick();
                let shown = terminal.contents();
                assert_eq!(shown.lines().count(), 1, "{width}: {shown}");
                let columns = shown.trim_end().chars().count();
                assert!(
                    columns + usize::from(ECHO) <= usize::from(width),
                    "{width}: {shown}"
                );
                assert!(shown.contains('%'), "{width}: {shown}");
                assert!(utf8 || shown.is_ascii(), "{width}: {shown}");
                bar.finish_and_clear();
                assert_eq!(terminal.contents().trim(), "", "{width}");
            }
        }
    }
}
