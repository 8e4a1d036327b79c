//! Text for people: pure functions from values to strings.

mod advice;
mod anonymize;
mod pasteable;
mod paths;
mod status;
mod table;
mod units;
mod why;

pub(crate) use anonymize::{Masks, anonymize};
pub(crate) use pasteable::{ToRepeat, pasteable};
pub(crate) use paths::{PATH_COLUMNS, path_rows};
pub(crate) use status::{status_text, watched};
pub(crate) use table::{Cell, Color, Column, table};
pub(crate) use units::{age, short, short_hex};
pub(crate) use why::explain;

use mesh_core::text::is_hostile;

/// Makes text from elsewhere (names from the contract, errors of an RPC) safe for a terminal: hostile characters become `\u{..}`
/// escapes. Line feeds stay.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) && c != '\n' { safe.extend(c.escape_unicode()) } else { safe.push(c) }
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
