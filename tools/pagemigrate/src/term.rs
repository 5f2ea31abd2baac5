// SPDX-License-Identifier: GPL-2.0

//! Small things about numbers and texts.

use std::io::{self, Write};

use comfy_table::{presets, Table, TableComponent};
use page_migrate::{page_size, Range};

/// Writes to stdout.
pub(crate) fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
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
    let line = format!("pagemigrate: {message}\n");
    let _ = io::stderr().lock().write_all(line.as_bytes());
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

/// `START+LEN`, each a decimal number or one in hex with `0x`, LEN with an
/// optional K, M, G or T.
pub(crate) fn parse_range(text: &str) -> Result<Range, String> {
    let (start, len) = text
        .split_once('+')
        .ok_or("write START+LEN, like 0x7f0000000000+64M")?;
    let start = parse_number(start)?;
    let len = parse_size(len)?;
    let page = page_size();
    if start % page != 0 {
        return Err(format!("START must be a multiple of the page size, {page}"));
    }
    if len == 0 {
        return Err("LEN must not be 0".into());
    }
    Ok(Range { start, len })
}

fn parse_number(text: &str) -> Result<u64, String> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix() would take a sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return Err(format!("'{text}' is no number"));
    }
    u64::from_str_radix(digits, radix).map_err(|_| format!("'{text}' is no number"))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        Some('T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    parse_number(digits)?
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{text}' is too large"))
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

/// An empty table in the style of all our tables.
pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(if is_utf8() {
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
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let page = page_size();
        let range = |start, len| Ok(Range { start, len });
        assert_eq!(parse_range(&format!("{page}+1")), range(page, 1));
        assert_eq!(
            parse_range("0x7f0000000000+64M"),
            range(0x7f00_0000_0000, 64 << 20)
        );
        assert_eq!(parse_range("0+0x2000"), range(0, 0x2000));
        assert_eq!(parse_range("0+1g"), range(0, 1 << 30));
        assert_eq!(parse_range("0+18446744073709551615"), range(0, u64::MAX));
        for text in [
            "",
            "0",
            "+",
            "0+",
            "+1",
            "0+0",
            "1+1",
            "0+-1",
            "0++1",
            "x+1",
            "0x+1",
            "0+1KK",
            "0+99999999999T",
            "0+K",
            "0+1\u{e9}",
        ] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_of_numbers() {
        assert_eq!(list(&[7]), "7");
        assert_eq!(list(&[7, 8, 9]), "7, 8, 9");
        let many: Vec<i32> = (1..=20).collect();
        assert!(list(&many[..16]).ends_with("15, 16"));
        assert!(list(&many).ends_with("15, 16 and 4 more"));
    }

    #[test]
    fn one_page_is_no_plural() {
        assert!(pages(1).starts_with("1 page ("));
        assert!(pages(0).starts_with("0 pages ("));
    }
}
