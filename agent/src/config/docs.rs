//! Holds tables of the manual against the code.
//!
//! Owns: one comparison for tests: the rows between two markers of a file are exactly those that the code yields.
//! With `UNDERSTUDY_BLESS=1` the rows are written instead of compared.

use std::path::Path;

const BEGIN: &str = "<!-- table from the code: begin -->\n";
const END: &str = "<!-- table from the code: end -->";

/// Panics when the table in `file` (relative to the repository) is not `rows`.
pub(crate) fn assert_table(file: &str, rows: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let Some((head, rest)) = text.split_once(BEGIN) else { panic!("{file} has no begin marker") };
    let Some((found, tail)) = rest.split_once(END) else { panic!("{file} has no end marker") };
    // The two lines of the table's own head belong to the file.
    let at = found.match_indices('\n').nth(1).map_or(found.len(), |(at, _)| at + 1);
    let (table_head, found) = found.split_at(at);
    if found == rows {
        return;
    }
    if std::env::var_os("UNDERSTUDY_BLESS").is_some() {
        let written = std::fs::write(&path, format!("{head}{BEGIN}{table_head}{rows}{END}{tail}"));
        assert!(written.is_ok(), "{file}: {written:?}");
        return;
    }
    let missing: Vec<&str> = rows.lines().filter(|row| !found.contains(row)).collect();
    let surplus: Vec<&str> = found.lines().filter(|row| !rows.contains(row)).collect();
    panic!("{file} is out of date; run the test with UNDERSTUDY_BLESS=1\nmissing: {missing:#?}\nsurplus: {surplus:#?}");
}
