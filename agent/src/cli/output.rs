//! Printing: tables with aligned columns, JSON, and failures.
//!
//! Owns: standard output. What can hurt: a reader that went away (`| head`); that ends a command quietly, it is no
//! panic. Refuses: colours; a script reads this too.

use std::io::Write;

use super::Failure;

/// Prints a text as it is.
///
/// # Errors
///
/// Standard output is closed.
pub fn text(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::Other(format!("cannot print: {error}")))
}

/// Prints JSON, indented, with a line end.
///
/// # Errors
///
/// Standard output is closed.
pub fn json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let printed =
        serde_json::to_string_pretty(value).map_err(|error| Failure::Other(format!("cannot be JSON: {error}")))?;
    text(&(printed + "\n"))
}

/// Prints a failure on standard error.
pub fn failure(failure: &Failure) {
    let _ = writeln!(std::io::stderr(), "understudy: {failure}");
}

/// A table: a head, and rows of as many cells.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |cell: &str| cell.chars().count();
    let mut widths: Vec<usize> = head.iter().map(|cell| width(cell)).collect();
    for row in rows {
        for (cell, wide) in row.iter().zip(&mut widths) {
            *wide = (*wide).max(width(cell));
        }
    }
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, wide) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(wide + 2 - width(cell).min(*wide)));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Bytes for people.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    for (unit, name) in [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit {
            let tenths = bytes / (unit / 10);
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

/// Seconds for people.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    if seconds <= 0.0 {
        "0 s".to_owned()
    } else if seconds < 1.0 {
        format!("{:.0} ms", (seconds * 1000.0).ceil())
    } else if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else if seconds < 172_800.0 {
        format!("{:.0} h", seconds / 3600.0)
    } else {
        format!("{:.0} d", seconds / 86_400.0)
    }
}
