//! The table that is printed at the end, in Markdown: docs/performance.md holds a copy of one.

/// Rows so far.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<[String; 5]>);

impl Table {
    /// Adds a row: its letter, what was measured, the figure, its floor or peer, and the goal.
    pub(crate) fn row(&mut self, row: &str, what: &str, figure: String, beside: String, goal: &str) {
        self.0
            .push([row.to_owned(), what.to_owned(), figure, beside, goal.to_owned()]);
    }

    /// Prints everything.
    pub(crate) fn print(&self) {
        let head = ["row", "what", "figure", "beside", "goal"].map(str::to_owned);
        let mut widths = head.clone().map(|h| h.len());
        for row in &self.0 {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &[String; 5]| {
            let padded = cells.iter().zip(widths).map(|(c, w)| format!("{c:w$}"));
            format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
        };
        println!("{}", line(&head));
        println!("|{}|", widths.map(|w| "-".repeat(w + 2)).join("|"));
        for row in &self.0 {
            println!("{}", line(row));
        }
    }
}
