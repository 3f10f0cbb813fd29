//! Checks on one source file: its head, its length, words that must not stay, clocks, atomics, fenced unsafe.
//!
//! Owns: which modules may read a clock, use atomics, or be longer. What can hurt: words inside strings and comments;
//! a check looks at code only, by [`code_of`]. Refuses: parsing Rust; what needs a parser is clippy's to find.

use super::files::{LINES_MAX, SourceFile};

/// Files that are one table, and may be as long as it is.
const TABLES: [&str; 1] = ["agent/src/config/table.rs"];

/// The table of the C interface: each of its lines becomes a line of the header, and macros cannot be broken.
const WIDE: &str = "ring/src/abi/";

/// A line longer than this is refused in Rust files; rustfmt cannot break a string, so a line with one may be longer.
const COLUMNS_MAX: usize = 120;
const COLUMNS_MAX_WITH_STRING: usize = 240;

/// Files of the product that may read a clock. Other crates (tests, measurements) are held by clippy's
/// `disallowed_methods`, which asks for a reason in one place.
const CLOCK_FILES: [&str; 3] = ["agent/src/clock.rs", "ring/src/clock.rs", "xtask/src/clock.rs"];

/// Files and folders that may name `std::sync::atomic` (or core's): elsewhere, pass messages or take a lock.
const ATOMIC_FILES: [&str; 11] = [
    "ring/",
    "agent/src/metrics/",
    "agent/src/capture/",
    "agent/src/journal/mod.rs",
    "agent/src/beat/",
    "agent/src/transport/",
    "bench/",
    "tests/",
    "xtask/src/chaos/",
    "xtask/src/demo/",
    "xtask/src/stop.rs",
];

/// Every source file opens by saying what it owns, what can hurt, what it refuses.
pub(super) fn head(file: &SourceFile) -> Vec<String> {
    let first = file.lines().find(|l| !l.trim().is_empty() && !l.starts_with("#!")).unwrap_or("");
    let ok = match (file.is_rust(), file.is_c()) {
        (true, _) => first.starts_with("//! "),
        (_, true) => first.starts_with("/*"),
        _ => return Vec::new(),
    };
    let placeholder =
        file.is_rust() && file.lines().count() < 3 && file.text.is_some() && first.contains("Placeholder");
    match (ok, placeholder) {
        (false, _) => vec![format!("{}:1: no head that says what this file owns and refuses", file.path)],
        (true, true) => vec![format!("{}:1: nothing but a placeholder", file.path)],
        _ => Vec::new(),
    }
}

/// Neither lines nor files grow without end.
pub(super) fn lengths(file: &SourceFile) -> Vec<String> {
    let mut problems = Vec::new();
    if !file.is_rust() && !file.is_c() {
        return problems;
    }
    let lines = file.code_lines();
    if lines > LINES_MAX && !TABLES.contains(&file.path.as_str()) {
        problems.push(format!("{}: {lines} lines, more than {LINES_MAX}; split it by what it owns", file.path));
    }
    if file.is_rust() {
        let wide = file.path.starts_with(WIDE);
        let max = |l: &str| if wide || l.contains('"') { COLUMNS_MAX_WITH_STRING } else { COLUMNS_MAX };
        let long = file.lines().enumerate().filter(|(_, l)| l.chars().count() > max(l));
        problems.extend(long.map(|(n, _)| format!("{}:{}: longer than {COLUMNS_MAX} columns", file.path, n + 1)));
    }
    problems
}

/// Words of unfinished work, and paths of somebody's own machine.
pub(super) fn banned(file: &SourceFile) -> Vec<String> {
    // Put together here, so that this file does not name them.
    let unfinished = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX"].concat(), ["dbg", "!("].concat()];
    let machine = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat(), ["/home", "/"].concat()];
    let mut problems = Vec::new();
    for (n, line) in file.lines().enumerate() {
        let at = format!("{}:{}", file.path, n + 1);
        if let Some(word) = unfinished.iter().find(|w| has_word(line, w)) {
            problems.push(format!("{at}: `{word}` must not stay: finish it, or say in words what is missing and why"));
        }
        if let Some(path) = machine.iter().find(|p| has_path(line, p)) {
            problems.push(format!("{at}: names `{path}`, a path of one machine"));
        }
    }
    problems
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !inside(before) && (word.ends_with('(') || !inside(after))
    })
}

/// `path` as the beginning of a path, not in the middle of one (`out/work/` is nobody's machine).
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-/}*%~$)".contains(c))
    })
}

/// Only the clock modules read clocks.
pub(super) fn clocks(file: &SourceFile) -> Vec<String> {
    let product = ["agent/src/", "agent-types/", "ring/src/", "xtask/"].iter().any(|p| file.path.starts_with(p));
    if !file.is_rust() || !product || CLOCK_FILES.contains(&file.path.as_str()) {
        return Vec::new();
    }
    let words = [["Instant::", "now("].concat(), ["SystemTime::", "now("].concat(), ["clock_", "gettime"].concat()];
    find(file, &words, "reads a clock; take `now` as an argument, only `clock` reads one")
}

/// Only the named modules use atomics.
pub(super) fn atomics(file: &SourceFile) -> Vec<String> {
    if !file.is_rust() || ATOMIC_FILES.iter().any(|f| file.path.starts_with(f)) || file.path.contains("/tests/") {
        return Vec::new();
    }
    find(file, &[["sync::", "atomic"].concat()], "uses atomics outside the modules that may; pass a message or lock")
}

/// The compiler denies `unsafe` outside fences that say why; nothing may take that denial back.
pub(super) fn unsafe_fence(file: &SourceFile) -> Vec<String> {
    let allow = ["allow(", "unsafe_code"].concat();
    let kernel = file.path.starts_with("agent-ebpf/") || file.path.starts_with("fuzz/");
    if file.path.ends_with("/Cargo.toml") && !kernel {
        let text = file.text.as_deref().unwrap_or("");
        let held = text.contains("[lints]\nworkspace = true");
        return if held { Vec::new() } else { vec![format!("{}: without the workspace's lints", file.path)] };
    }
    if !file.is_rust() || kernel {
        return Vec::new();
    }
    find(file, &[allow], "hides an exemption that may no longer be needed; use `expect` with a reason")
}

fn find(file: &SourceFile, words: &[String], what: &str) -> Vec<String> {
    let hits = file.lines().enumerate().filter(|(_, line)| {
        let code = code_of(line);
        words.iter().any(|w| code.contains(w.as_str()))
    });
    hits.map(|(n, _)| format!("{}:{}: {what}", file.path, n + 1)).collect()
}

/// A line without its comment and without what stands in its strings. Good enough for words; not a parser.
pub(super) fn code_of(line: &str) -> String {
    let mut code = String::with_capacity(line.len());
    let mut in_string = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => _ = chars.next(),
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(c),
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(text: &str) -> SourceFile {
        SourceFile::of("agent/src/x.rs", text)
    }

    #[test]
    fn a_head_is_asked_for() {
        assert!(head(&rust("//! Owns x.\nfn a() {}\nfn b() {}\n")).is_empty());
        assert_eq!(head(&rust("fn a() {}\n")).len(), 1);
        assert_eq!(head(&SourceFile::of("stores/a.c", "#include <a>\n")).len(), 1);
        assert!(head(&SourceFile::of("stores/a.c", "/* Owns a. */\n")).is_empty());
    }

    #[test]
    fn words_of_unfinished_work_are_found_and_their_kin_are_not() {
        let todo = ["TO", "DO"].concat();
        assert_eq!(banned(&rust(&format!("// {todo}: later"))).len(), 1);
        assert!(banned(&rust(&format!("let {todo}LIST = 1;"))).is_empty());
        let path = ["/wo", "rk/main"].concat();
        assert_eq!(banned(&rust(&format!("see {path}"))).len(), 1);
        assert!(banned(&rust(&format!("see out{path}"))).is_empty());
    }

    #[test]
    fn clocks_atomics_and_unsafe_are_fenced() {
        let now = ["Instant::", "now()"].concat();
        assert_eq!(clocks(&rust(&format!("let t = {now};"))).len(), 1);
        assert!(clocks(&rust(&format!("// not {now}"))).is_empty());
        assert!(clocks(&SourceFile::of("agent/src/clock.rs", &now)).is_empty());
        let atomic = ["use std::sync::", "atomic::AtomicU64;"].concat();
        assert_eq!(atomics(&rust(&atomic)).len(), 1);
        assert!(atomics(&SourceFile::of("ring/src/sync.rs", &atomic)).is_empty());
        let allow = ["#![allow(", "unsafe_code)]"].concat();
        assert_eq!(unsafe_fence(&rust(&allow)).len(), 1);
        assert_eq!(unsafe_fence(&SourceFile::of("ring/Cargo.toml", "[package]")).len(), 1);
    }

    #[test]
    fn long_lines_and_files_are_found() {
        assert_eq!(lengths(&rust(&"x".repeat(121))).len(), 1);
        assert_eq!(lengths(&rust(&"x\n".repeat(601))).len(), 1);
        assert!(lengths(&rust(&"x\n".repeat(600))).is_empty());
    }

    #[test]
    fn strings_and_comments_are_not_code() {
        assert_eq!(code_of(r#"let a = "b // \" c"; // d"#), "let a = ; ");
    }
}
