//! The agent's configuration file, as a report has it.

use std::{fs, path::Path};

/// Bytes read of the file.
const MAX: usize = 64 << 10;

/// The lines of the file that say something: comments and empty lines are left out.
///
/// # Errors
/// Why the file cannot be read.
pub(crate) fn settings_of(path: &Path) -> Result<String, String> {
    let text = fs::read(path).map_err(|error| format!("`{}` cannot be read: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX)]);
    let says_something = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let lines: Vec<_> = text.lines().map(|line| without_comment(line).trim()).filter(says_something).collect();
    if lines.is_empty() { Err(format!("`{}` sets nothing", path.display())) } else { Ok(lines.join("\n")) }
}

/// A comment may hold what was set before. A `#` in quotes begins none.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match (c, quote) {
            ('#', None) => return &line[..at],
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_left_out() {
        assert_eq!(without_comment("mtu = 1400 # was: secret"), "mtu = 1400 ");
        assert_eq!(without_comment("names = \"a # b\" # c"), "names = \"a # b\" ");
        assert_eq!(without_comment("# rpc-url = \"x\""), "");
    }
}
