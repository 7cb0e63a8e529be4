//! Tables and named values with aligned columns, for the answers of commands.

use contract::text::{column_count, escape_line, truncate, wrap};

/// The columns before a name, and the fewest between it and its value.
const GAP: usize = 2;

/// The layout of named values, one below the other.
#[derive(Clone, Copy, Debug)]
pub struct FieldLayout {
    /// The column that the values begin in.
    pub value_column: usize,
    /// The columns of a line, after which a value is wrapped.
    pub line_width: usize,
}

impl FieldLayout {
    /// Appends a value under a name, which is empty if the value belongs to the name before it. It may be foreign text.
    pub fn push(self, answer: &mut String, name: &str, value: &str) {
        let room = self.line_width.saturating_sub(self.value_column);
        let name_width = self.value_column.saturating_sub(2 * GAP);
        for (index, line) in wrap(value, room, room).iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            answer.push_str(format!("{:GAP$}{name:<name_width$}{:GAP$}{line}", "", "").trim_end());
            answer.push('\n');
        }
    }
}

/// Lays out rows under a head, with two spaces between columns and an indent.
///
/// A column is as wide as its widest cell, except the last one: it is cut where the line would be wider than `line_width`, but
/// keeps at least eight columns. Cells may be foreign text.
#[must_use]
pub fn table<const N: usize>(indent: usize, line_width: usize, head: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(|cell| escape_line(cell))).collect();
    let mut widths = head.map(column_count);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = column_count(cell).max(*width);
        }
    }
    let before_last: usize = widths.iter().take(N.saturating_sub(1)).map(|width| width + 2).sum();
    let room = line_width.saturating_sub(indent + before_last).max(8);
    let mut lines = String::new();
    for row in std::iter::once(&head.map(str::to_owned)).chain(&rows) {
        let mut line = " ".repeat(indent);
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            if index + 1 == N {
                line.push_str(&truncate(cell, room));
            } else {
                line.push_str(&format!("{cell:<width$}  "));
            }
        }
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_wrapped_at_the_width_of_the_line_and_whole_without_one() {
        let lines = |line_width: usize| {
            let mut answer = String::new();
            FieldLayout { value_column: 8, line_width }.push(&mut answer, "last", "r1: deployed by ann");
            answer
        };
        assert_eq!(lines(20), "  last  r1: deployed\n        by ann\n");
        assert_eq!(lines(usize::MAX), "  last  r1: deployed by ann\n");
    }

    #[test]
    fn columns_align_and_last_one_is_cut() {
        let rows = [["1".to_owned(), "b".repeat(90)], ["long".to_owned(), "c".to_owned()]];
        let expected = format!("  N     BY\n  1     {}…\n  long  c\n", "b".repeat(71));
        assert_eq!(table(2, 80, ["N", "BY"], &rows), expected);
        assert!(table(2, usize::MAX, ["N", "BY"], &rows).contains(&"b".repeat(90)), "it is whole without a width");
    }
}
