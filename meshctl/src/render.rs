//! Text for people: pure functions from values to strings.

mod anonymize;
mod status;
mod table;
mod units;
mod utc;
mod why;

pub(crate) use anonymize::anonymize;
pub(crate) use status::{status_text, watched};
pub(crate) use table::{Align, Cell, Color, Column, table};
pub(crate) use units::{short, short_hex};
pub(crate) use why::explain;

/// Makes text from elsewhere (names from the contract, errors of an RPC) safe for a terminal: control characters, which
/// could move the cursor or retitle the window, and marks that reverse reading order become `\u{..}` escapes. Line feeds
/// stay.
pub(crate) fn printable(text: &str) -> String {
    let hostile = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if hostile(c) { safe.extend(c.escape_unicode()) } else { safe.push(c) }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_direction_marks_are_disarmed() {
        assert_eq!(printable("a\x1b[2Jb\u{202e}c\rd\n"), "a\\u{1b}[2Jb\\u{202e}c\\u{d}d\n");
        assert_eq!(printable("größe…"), "größe…");
    }
}
