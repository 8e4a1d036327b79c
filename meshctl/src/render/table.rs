//! Aligned columns, and colour that never shifts them.

use super::printable;

/// Colours with a meaning; the terminal's own eight, so that they suit its theme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    Good,
    Caution,
    Bad,
    Dim,
}

/// Wraps text in a colour when `color` allows it.
pub(crate) fn paint(text: &str, paint: Option<Color>, color: bool) -> String {
    let code = match paint {
        Some(Color::Good) => 32,
        Some(Color::Caution) => 33,
        Some(Color::Bad) => 31,
        Some(Color::Dim) => 2,
        None => return text.to_owned(),
    };
    if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// One column: its title, its alignment, and the width below which it does not shrink.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) align: Align,
    pub(crate) min_width: usize,
}

impl Column {
    /// As wide as its content.
    pub(crate) const fn left(title: &'static str) -> Self {
        Self { title, align: Align::Left, min_width: 0 }
    }

    /// As wide as its content.
    pub(crate) const fn right(title: &'static str) -> Self {
        Self { title, align: Align::Right, min_width: 0 }
    }
}

/// One cell; hostile characters are disarmed when it is made.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    color: Option<Color>,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self { text: printable(text.as_ref()).replace('\n', " "), color: None }
    }

    pub(crate) fn colored(text: impl AsRef<str>, color: Option<Color>) -> Self {
        Self { color, ..Self::new(text) }
    }
}

/// Lays out a title row and one line per row, two spaces between columns, no spaces at line ends.
pub(crate) fn table(columns: &[Column], rows: &[Vec<Cell>], color: bool) -> String {
    let titles = columns.iter().map(|column| Cell::new(column.title)).collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, column)| {
            let widest = rows.iter().filter_map(|row| row.get(i)).map(|cell| width(&cell.text)).max();
            column.min_width.max(width(column.title)).max(widest.unwrap_or(0))
        })
        .collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for ((cell, column), width_wanted) in row.iter().zip(columns).zip(&widths) {
            let padding = " ".repeat(width_wanted - width(&cell.text));
            let painted = paint(&cell.text, cell.color, color);
            match column.align {
                Align::Left => line.push_str(&format!("{painted}{padding}  ")),
                Align::Right => line.push_str(&format!("{padding}{painted}  ")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Columns a text takes; every character counts one.
pub(crate) fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 2] = [Column::right("TOKEN"), Column::left("NAME")];

    #[test]
    fn columns_align_and_lines_end_clean() {
        let rows = vec![vec![Cell::new("3"), Cell::new("a")], vec![Cell::new("1000000"), Cell::new("größe-1")]];
        assert_eq!(table(&COLUMNS, &rows, false), "  TOKEN  NAME\n      3  a\n1000000  größe-1\n");
    }

    #[test]
    fn colour_and_hostile_names_do_not_shift_columns() {
        let rows = vec![vec![Cell::colored("3", Some(Color::Bad)), Cell::new("a\nb\x1b[2J")]];
        assert_eq!(table(&COLUMNS, &rows, false), "TOKEN  NAME\n    3  a b\\u{1b}[2J\n");
        assert_eq!(table(&COLUMNS, &rows, true), "TOKEN  NAME\n    \x1b[31m3\x1b[0m  a b\\u{1b}[2J\n");
    }
}
