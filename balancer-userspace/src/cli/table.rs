//! Aligned columns.
//!
//! Two spaces between columns, titles in capitals, numbers to the right, no trailing blanks: a table that
//! `awk`, `cut -c` and eyes can read. Every cell is one line ([`safe`]).

use super::term::{Ink, Palette, safe};

/// Which side a column's text keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table that is being filled.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

/// One cell.
#[derive(Debug)]
pub struct Cell {
    text: String,
    ink: Ink,
}

impl Cell {
    /// A cell in ordinary ink; `-` for an empty text.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self::inked(text, Ink::Plain)
    }

    /// A cell in a given ink; `-` for an empty text.
    pub fn inked(text: impl AsRef<str>, ink: Ink) -> Self {
        let text = safe(text.as_ref());
        Self { text: if text.is_empty() { "-".to_owned() } else { text.into_owned() }, ink }
    }

    /// A number.
    pub fn number(number: u64) -> Self {
        Self::new(number.to_string())
    }

    /// A number that is bad news unless it is 0.
    pub fn bad_unless_zero(number: u64) -> Self {
        Self::inked(number.to_string(), if number == 0 { Ink::Plain } else { Ink::Bad })
    }
}

impl Table {
    /// An empty table with these titles.
    pub fn new(columns: Vec<(&'static str, Align)>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row. It has as many cells as there are columns.
    pub fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len(), "a row fills every column");
        self.rows.push(row);
    }

    /// Appends the table to `out`, each line after `indent`.
    pub fn render(&self, out: &mut String, palette: Palette, indent: &str) {
        let mut widths: Vec<usize> = self.columns.iter().map(|(title, _)| title.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let titles: Vec<Cell> = self
            .columns
            .iter()
            .map(|(title, _)| Cell { text: (*title).to_owned(), ink: Ink::Bold })
            .collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            self.line(out, palette, indent, row, &widths);
        }
    }

    fn line(&self, out: &mut String, palette: Palette, indent: &str, row: &[Cell], widths: &[usize]) {
        out.push_str(indent);
        let last = row.len().saturating_sub(1);
        for (index, ((cell, &width), (_, align))) in row.iter().zip(widths).zip(&self.columns).enumerate() {
            if index > 0 {
                out.push_str("  ");
            }
            let blanks = width.saturating_sub(cell.text.chars().count());
            if *align == Align::Right {
                out.extend(std::iter::repeat_n(' ', blanks));
            }
            palette.paint(out, cell.ink, &cell.text);
            if *align == Align::Left && index < last {
                out.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_end_without_blanks() {
        let mut table = Table::new(vec![("NAME", Align::Left), ("OPEN", Align::Right), ("POD", Align::Left)]);
        table.push(vec![Cell::new("a"), Cell::number(12_345), Cell::new("")]);
        table.push(vec![Cell::new("größer"), Cell::bad_unless_zero(3), Cell::new("x\ny")]);
        let mut out = String::new();
        table.render(&mut out, Palette::Plain, " ");
        assert_eq!(out, " NAME     OPEN  POD\n a       12345  -\n größer      3  x\\ny\n");
        let mut coloured = String::new();
        table.render(&mut coloured, Palette::Colour, " ");
        assert!(coloured.contains("    \x1b[31m3\x1b[0m  "), "{coloured:?}");
    }
}
