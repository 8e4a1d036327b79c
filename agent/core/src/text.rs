//! Text that others wrote, made safe to print: one line, no characters that act on a terminal or hide what they do, a bounded length.

/// Control characters, which can move the cursor or retitle the window, and characters without a look of their own: marks that
/// reverse the reading order, joiners, separators of lines, tags.
#[must_use]
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The first `most` characters of `text`, each hostile one as its escape (`\n`, `\u{202e}`), and `…` where there was more.
#[must_use]
pub fn escaped(text: &str, most: usize) -> String {
    let mut safe = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == most {
            safe.push('…');
            break;
        }
        if is_hostile(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_is_left_and_the_rest_stays() {
        assert_eq!(escaped("a\x1b[2J\n\u{9b}b\u{202e}c\u{e0041}", 100), "a\\u{1b}[2J\\n\\u{9b}b\\u{202e}c\\u{e0041}");
        assert_eq!(escaped("größe…", 100), "größe…");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(escaped("ééé", 3), "ééé");
        assert_eq!(escaped("éééé", 3), "ééé…");
    }
}
