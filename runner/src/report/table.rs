//! Tables with aligned columns, for the answers of commands.

use contract::text::{WIDTH, column_count, escape_line, truncate};

/// Lays out rows under a head, with two spaces between columns and an indent.
///
/// A column is as wide as its widest cell, except the last one: it is cut where the line would be wider than [`WIDTH`], but
/// keeps at least eight columns. Cells may be foreign text.
#[must_use]
pub fn table<const N: usize>(indent: usize, head: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(|cell| escape_line(cell))).collect();
    let mut widths = head.map(column_count);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = column_count(cell).max(*width);
        }
    }
    let before_last: usize = widths.iter().take(N.saturating_sub(1)).map(|width| width + 2).sum();
    let room = WIDTH.saturating_sub(indent + before_last).max(8);
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
    fn columns_align_and_last_one_is_cut() {
        let rows = [["1".to_owned(), "b".repeat(90)], ["long".to_owned(), "c".to_owned()]];
        let expected = format!("  N     BY\n  1     {}…\n  long  c\n", "b".repeat(71));
        assert_eq!(table(2, ["N", "BY"], &rows), expected);
    }
}
