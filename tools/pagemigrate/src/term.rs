// SPDX-License-Identifier: GPL-2.0

//! What is printed, and what the terminal can show.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use anstyle::{AnsiColor, Style};
use comfy_table::{presets, CellAlignment, Table, TableComponent};
use console::measure_text_width;
use page_migrate::page_size;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What went well, what did not, and what is worth a second look.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const CARE: Style = AnsiColor::Yellow.on_default();

/// A text in a style. Where nobody can see it, [`print`] and [`complain`] take the style away.
pub(crate) fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Writes to stdout.
pub(crate) fn print(text: &str) -> Result<(), String> {
    let mut out = anstream::AutoStream::auto(io::stdout().lock());
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// What came of writing to stdout. A reader that has gone away (`| head`) is no error.
pub(crate) fn printed(done: io::Result<()>) -> Result<(), String> {
    match done {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write the output: {e}"))
        }
        _ => Ok(()),
    }
}

/// Writes a message to stderr. If that fails, nobody can be told, and the exit status says the rest.
pub(crate) fn complain(message: &str) {
    say_message(&format!("{} {message}", styled(BAD, "pagemigrate:")));
}

/// The same of something that the user may want to know.
pub(crate) fn note(message: &str) {
    say_message(&format!("{} note: {message}", styled(CARE, "pagemigrate:")));
}

/// Writes a message to stderr in lines that fit. What follows a colon is a command to be copied, and
/// stays as it is.
fn say_message(message: &str) {
    let width = columns(&io::stderr());
    let mut out = String::new();
    let mut is_command = false;
    for line in message.lines() {
        let width = width.filter(|_| !is_command);
        out += &(wrapped(line, width, HANGING) + "\n");
        is_command = line.ends_with(':');
    }
    say(&out);
}

/// Writes to stderr, all at once.
pub(crate) fn say(text: &str) {
    let mut err = anstream::AutoStream::auto(io::stderr().lock());
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// The columns of the terminal that shows stdout, if one does.
pub(crate) fn width() -> Option<usize> {
    columns(&io::stdout())
}

fn columns(stream: &impl AsFd) -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(stream)?;
    Some(usize::from(width.0)).filter(|width| *width > 0)
}

/// How much further in than its line a line begins that goes on with it.
pub(crate) const HANGING: usize = 2;

/// Breaks the lines that are wider than `width` between words. What follows is `hanging` columns
/// further in.
pub(crate) fn wrapped(text: &str, width: Option<usize>, hanging: usize) -> String {
    let Some(width) = width else {
        return text.to_owned();
    };
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        if measure_text_width(line.trim_end()) <= width {
            out += line;
            continue;
        }
        let indent = line.len() - line.trim_start_matches(' ').len();
        let mut at = 0;
        for word in line.split_inclusive(' ') {
            let columns = measure_text_width(word.trim_end());
            if at > indent + hanging && at + columns > width {
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
                out += &" ".repeat(indent + hanging);
                at = indent + hanging;
            }
            out += word;
            at += measure_text_width(word.trim_end_matches('\n'));
        }
    }
    out
}

/// The columns of the terminal that shows stderr, if it can show something that moves.
pub(crate) fn live_width() -> Option<usize> {
    let stderr = io::stderr();
    if !stderr.is_terminal() || is_dumb() {
        return None;
    }
    let width = terminal_size::terminal_size_of(stderr).map_or(80, |(width, _)| width.0);
    Some(usize::from(if width == 0 { 80 } else { width }))
}

/// A terminal that cannot even go back to the begin of a line.
pub(crate) fn is_dumb() -> bool {
    std::env::var("TERM").is_ok_and(|term| term == "dumb")
}

/// How many numbers a list shows.
const LISTED: usize = 16;

/// Numbers in a row, the first of them if they are many.
pub(crate) fn list(numbers: &[i32]) -> String {
    let (shown, rest) = numbers.split_at(numbers.len().min(LISTED));
    let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
    match rest.len() {
        0 => shown.join(", "),
        n => format!("{} and {n} more", shown.join(", ")),
    }
}

/// Bytes, for people.
pub(crate) fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}

/// A number of pages and what it is in bytes.
pub(crate) fn pages(n: u64) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} page{s} ({})", bytes(n.saturating_mul(page_size())))
}

/// Whether the locale can show more than ASCII.
pub(crate) fn is_utf8() -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty())
        .is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

/// A text that was read somewhere, as the terminal can show it.
pub(crate) fn shown(text: &str, utf8: bool) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_control() => '?',
            c if !utf8 && !c.is_ascii() => '?',
            c => c,
        })
        .collect()
}

/// A column of a table.
#[derive(Debug)]
pub(crate) struct Column {
    title: String,
    cells: Vec<String>,
    /// The cells before they were cut.
    whole: Option<Vec<String>>,
    left: bool,
    /// Where there is no room for all, those with the highest number go first.
    rank: usize,
    /// How wide it is at least, for one whose texts can be cut.
    least: Option<usize>,
    /// Of what is too long, the end is worth more than the beginning.
    keeps_end: bool,
    /// The parts that its bars are for, and the whole.
    bars: Option<(Vec<u64>, u64)>,
}

impl Column {
    /// One of numbers, which is always there.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Column {
            title: title.into(),
            cells: Vec::new(),
            whole: None,
            left: false,
            rank: 0,
            least: None,
            keeps_end: false,
            bars: None,
        }
    }

    /// One of bars for parts of a whole, as long as there is room, up to a length.
    pub(crate) fn bars(parts: Vec<u64>, whole: u64, length: usize, utf8: bool) -> Self {
        let mut column = Column::new(" ").left().cut_to(SHORTEST_BAR);
        column.bars = Some((parts, whole));
        column.cut(length, utf8);
        column.whole = None;
        column
    }

    /// One of texts.
    pub(crate) fn left(mut self) -> Self {
        self.left = true;
        self
    }

    /// One that goes where there is no room, those with the highest number first.
    pub(crate) fn rank(mut self, rank: usize) -> Self {
        self.rank = rank;
        self
    }

    /// One whose texts may be cut, to some columns at least.
    pub(crate) fn cut_to(mut self, least: usize) -> Self {
        self.least = Some(least);
        self
    }

    /// One of paths, of which the end says more.
    pub(crate) fn keep_end(mut self) -> Self {
        self.keeps_end = true;
        self
    }

    pub(crate) fn push(&mut self, cell: impl Into<String>) {
        self.cells.push(cell.into());
    }

    fn width(&self) -> usize {
        self.cells
            .iter()
            .chain([&self.title])
            .map(|text| text.width())
            .max()
            .unwrap_or(0)
    }

    /// Cuts what is wider.
    fn cut(&mut self, width: usize, utf8: bool) {
        self.whole.get_or_insert_with(|| self.cells.clone());
        if let Some((parts, whole)) = &self.bars {
            let bars = parts.iter().map(|part| bar(*part, *whole, width, utf8));
            self.cells = bars.collect();
            return;
        }
        for text in &mut self.cells {
            *text = cut(text, width, self.keeps_end, utf8);
        }
    }
}

/// Shorter ones say nothing.
const SHORTEST_BAR: usize = 6;

/// A bar for a part of a whole. Any part at all shows at least a bit.
fn bar(part: u64, whole: u64, length: usize, utf8: bool) -> String {
    if part == 0 || whole == 0 {
        return String::new();
    }
    let (full, bit) = if utf8 { ("█", "▏") } else { ("#", ":") };
    let length = u128::try_from(length).unwrap_or(0);
    let columns = u128::from(part) * length / u128::from(whole);
    match usize::try_from(columns) {
        Ok(0) | Err(_) => bit.to_owned(),
        Ok(n) => full.repeat(n),
    }
}

/// A table in the style of all our tables, not wider than `width`. Says below it what was left
/// out for that.
pub(crate) fn table(mut columns: Vec<Column>, width: Option<usize>, utf8: bool) -> String {
    columns.retain(|column| !column.title.is_empty() || column.width() > 0);
    let width = width.unwrap_or(usize::MAX);
    let mut left_out = Vec::new();
    let mut out = draw(&columns, utf8);
    loop {
        let all = out.lines().map(|line| line.width()).max().unwrap_or(0);
        if all <= width {
            break;
        }
        // First what can be cut, then what can go.
        let too_wide = all - width;
        let last = columns.iter().map(|c| c.rank).max().unwrap_or(0);
        if let Some((column, least)) = columns
            .iter_mut()
            .filter_map(|c| c.least.map(|least| (c, least)))
            .map(|(c, least)| {
                let least = least.max(c.title.width());
                (c, least)
            })
            .find(|(c, least)| c.width() > *least)
        {
            let to = column.width().saturating_sub(too_wide).max(least);
            column.cut(to, utf8);
        } else if last == 0 {
            break;
        } else if let Some(at) = columns.iter().rposition(|c| c.rank == last) {
            let gone = columns.remove(at);
            // There is more room for the others now.
            for column in &mut columns {
                if let Some(whole) = column.whole.take() {
                    column.cells = whole;
                }
            }
            if !gone.title.trim().is_empty() {
                left_out.insert(0, gone.title);
            }
        }
        out = draw(&columns, utf8);
    }
    if !left_out.is_empty() {
        let told = format!("no room for: {}", left_out.join(", "));
        out += &(cut(&told, width, false, utf8) + "\n");
    }
    out
}

/// A text, or as much of its beginning or its end as there is room for.
fn cut(text: &str, width: usize, keeps_end: bool, utf8: bool) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mark = if utf8 { "…" } else { "~" };
    let room = width.saturating_sub(mark.width());
    let mut used = 0;
    let mut fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= room
    };
    if keeps_end {
        let end: Vec<char> = text.chars().rev().take_while(&mut fits).collect();
        mark.chars().chain(end.into_iter().rev()).collect()
    } else {
        text.chars()
            .take_while(&mut fits)
            .chain(mark.chars())
            .collect()
    }
}

fn draw(columns: &[Column], utf8: bool) -> String {
    let mut table = Table::new();
    table.load_preset(if utf8 {
        presets::UTF8_HORIZONTAL_ONLY
    } else {
        presets::ASCII_HORIZONTAL_ONLY
    });
    for line in [
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
        TableComponent::LeftBorderIntersections,
        TableComponent::RightBorderIntersections,
    ] {
        table.remove_style(line);
    }
    table.set_header(columns.iter().map(|c| c.title.as_str()));
    let rows = columns.iter().map(|c| c.cells.len()).max().unwrap_or(0);
    for row in 0..rows {
        table.add_row(
            columns
                .iter()
                .map(|c| c.cells.get(row).map_or("", String::as_str)),
        );
    }
    for (column, told) in table.column_iter_mut().zip(columns) {
        if !told.left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(list(&[7]), "7");
        assert_eq!(list(&[7, 8, 9]), "7, 8, 9");
        let many: Vec<i32> = (1..=20).collect();
        assert!(list(&many[..16]).ends_with("15, 16"));
        assert!(list(&many).ends_with("15, 16 and 4 more"));
    }

    #[test]
    fn lines_break_between_words() {
        let text = "  one two three\nfour five six seven\n";
        assert_eq!(wrapped(text, None, 2), text);
        assert_eq!(wrapped(text, Some(19), 2), text);
        assert_eq!(
            wrapped(text, Some(12), 2),
            "  one two\n    three\nfour five\n  six seven\n"
        );
        // A word that does not fit anywhere stays whole.
        assert_eq!(
            wrapped("a longer-word b", Some(8), 4),
            "a longer-word\n    b"
        );
        // What a style takes is not seen.
        let told = styled(GOOD, "one two");
        assert_eq!(wrapped(&told, Some(7), 2), told);
        for width in 12..40 {
            for line in wrapped(&styled(BAD, text), Some(width), 2).lines() {
                assert!(measure_text_width(line) <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn one_page_is_no_plural() {
        assert!(pages(1).starts_with("1 page ("));
        assert!(pages(0).starts_with("0 pages ("));
    }

    #[test]
    fn tables_fit() {
        let columns = || {
            let mut name = Column::new("name").left().cut_to(6);
            name.push("a-long-name-of-a-program");
            let mut moved = Column::new("moved");
            moved.push("123456");
            let mut gone = Column::new("gone").rank(2);
            gone.push("7");
            let mut again = Column::new("met again").rank(1);
            again.push("8");
            let bar = Column::bars(vec![7], 7, 22, true).rank(3);
            vec![name, moved, gone, again, bar]
        };
        let whole = table(columns(), None, true);
        for word in [
            "a-long-name-of-a-program",
            "123456",
            "gone",
            "met again",
            "██",
        ] {
            assert!(whole.contains(word), "{word}:\n{whole}");
        }
        let wide = whole.lines().next().unwrap().width();
        let shorter = table(columns(), Some(wide - 15), true);
        assert!(
            shorter.contains("██████") && shorter.contains("gone"),
            "{shorter}"
        );
        for width in 24..80 {
            for utf8 in [true, false] {
                let text = table(columns(), Some(width), utf8);
                for line in text.lines() {
                    assert!(line.width() <= width, "{width}: {line}\n{text}");
                }
                assert!(text.contains("123456"), "{width}:\n{text}");
            }
        }
        let narrow = table(columns(), Some(24), false);
        assert!(narrow.contains("no room for: met again"), "{narrow}");
        // What others leave is for the name.
        assert!(narrow.contains("a-long-name"), "{narrow}");
    }

    #[test]
    fn bars() {
        assert_eq!(bar(0, 10, 20, true), "");
        assert_eq!(bar(0, 0, 20, true), "");
        assert_eq!(bar(1, 1_000_000, 20, false), ":");
        assert_eq!(bar(u64::MAX, u64::MAX, 5, false), "#####");
    }

    #[test]
    fn what_is_too_long() {
        let path = "/usr/lib/libc.so.6";
        assert_eq!(cut(path, 9, true, true), "…ibc.so.6");
        assert_eq!(cut(path, 9, false, false), "/usr/lib~");
        assert_eq!(cut(path, 18, true, true), path);
        assert_eq!(cut("本本本", 4, false, true), "本…");
        assert_eq!(cut("x", 0, false, true), "…");
    }

    #[test]
    fn odd_texts_do_no_harm() {
        assert_eq!(shown("a\x1b[2Jé\n", true), "a?[2Jé?");
        assert_eq!(shown("a\x1b[2Jé\n", false), "a?[2J??");
    }
}
