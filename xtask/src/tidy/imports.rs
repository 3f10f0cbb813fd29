//! Import directions inside `agent/src`: a stage names only stages before it on its own path.
//!
//! Owns: the table of what each module may name ([`MAY_NAME`]); ARCHITECTURE.md draws the same in words.
//! Refuses: exceptions that are not in the table. `node`, `control`, `metrics` and `cli` are where the
//! paths meet: they name all, and no stage names them.

use super::files::SourceFile;
use super::source::code_of;

/// Modules that every module may name: they name no stage.
const EVERYWHERE: [&str; 7] = ["limits", "clock", "database", "durable", "planted", "config", "rules"];
/// Where the paths meet.
const MEET: [&str; 4] = ["node", "control", "metrics", "cli"];

/// What each stage may name beside [`EVERYWHERE`] and itself. In reading order, as in `agent/src/lib.rs`.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("clock", &[]),
    ("database", &[]),
    ("durable", &[]),
    ("planted", &[]),
    ("config", &[]),
    ("rules", &[]),
    // Record path, active node.
    ("capture", &[]),
    ("batch", &["capture", "frame", "journal"]), // a group's tail, as the journal found it,
    ("frame", &[]),
    ("journal", &["frame"]),
    ("transport", &["journal"]), // the way of doing I/O is chosen alike
    ("ship", &["frame", "journal", "transport"]),
    // Record path, replica.
    ("receive", &["frame", "journal", "transport"]),
    ("apply", &["frame", "journal", "receive", "blob", "store", "digest"]),
    // Beside the path.
    ("blob", &[]),
    ("digest", &[]),
    ("store", &["digest"]),
    ("resync", &["store", "digest", "blob", "frame", "journal", "apply"]),
    ("merge", &["store", "digest", "blob", "apply"]), // what a node that comes back had alone
    ("routing", &[]),                                 // `node` hands it the answers
    // Signal path.
    ("probe", &[]),
    ("pressure", &[]),
    ("signal", &["probe", "pressure"]),
    ("beat", &["signal", "probe", "pressure", "transport"]),
    ("evidence", &["probe", "pressure", "signal", "store"]),
    ("suspect", &["beat"]),
    ("canary", &[]),
    // Failover: what is agreed on, and who decides.
    ("coordinator", &[]),
    ("pause", &["coordinator"]),
    ("failover", &["coordinator", "signal", "beat"]),
    ("fence", &[]),  // the hook and the watchdog, for `node`
    ("ledger", &[]), // `node` tells it what was seen
];

/// Findings in all files of the agent.
pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        let Some(inside) = file.path.strip_prefix("agent/src/") else { continue };
        let module = inside.split(['/', '.']).next().unwrap_or("");
        if !file.is_rust() || MEET.contains(&module) || ["lib", "bin", "main"].contains(&module) {
            continue;
        }
        let Some((_, may)) = MAY_NAME.iter().find(|(name, _)| *name == module) else {
            problems.push(format!("{}: module `{module}` has no row in the table of import directions", file.path));
            continue;
        };
        let ok = |name: &str| name == module || may.contains(&name) || EVERYWHERE.contains(&name);
        // What stands in a test may look at any stage, so the rest of the file from the first test module on is free.
        let code = file.lines().enumerate().take_while(|(_, l)| l.trim() != "#[cfg(test)]");
        for (n, line) in code {
            for name in named(&code_of(line)) {
                if is_module(&name) && !ok(&name) {
                    let at = format!("{}:{}", file.path, n + 1);
                    problems.push(format!("{at}: `{module}` names `{name}`, which is not before it on its path"));
                }
            }
        }
    }
    problems
}

fn is_module(name: &str) -> bool {
    MEET.contains(&name) || MAY_NAME.iter().any(|(module, _)| *module == name)
}

/// The first names after `crate::`, also those in braces on the same line.
fn named(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => names.push(first_word(&std::mem::take(&mut word))),
                    _ if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            names.push(first_word(&word));
        } else {
            names.push(first_word(rest));
        }
    }
    names
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        check(&[SourceFile::of(path, text)]).len()
    }

    #[test]
    fn a_stage_names_only_what_is_before_it() {
        assert_eq!(problems("agent/src/journal/mod.rs", "use crate::frame::Frame;"), 0);
        assert_eq!(problems("agent/src/journal/mod.rs", "use crate::transport::Peer;"), 1);
        assert_eq!(problems("agent/src/journal/x.rs", "use crate::{frame::{A, B}, limits, apply::C};"), 1);
        assert_eq!(problems("agent/src/journal/x.rs", "fn f() { crate::node::run() }"), 1);
        assert_eq!(problems("agent/src/journal/x.rs", "// crate::node::run()"), 0);
        assert_eq!(problems("agent/src/node/mod.rs", "use crate::apply::C;"), 0);
        assert_eq!(problems("agent/src/journal/x.rs", "#[cfg(test)]\nmod tests { use crate::apply::C; }"), 0);
    }

    #[test]
    fn a_module_without_a_row_is_found() {
        assert_eq!(problems("agent/src/newcomer.rs", ""), 1);
    }

    #[test]
    fn the_table_has_no_circle() {
        let mut done: Vec<&str> = EVERYWHERE.to_vec();
        let mut left: Vec<_> = MAY_NAME.iter().filter(|(m, _)| !done.contains(m)).collect();
        while !left.is_empty() {
            let before = left.len();
            let ready: Vec<&str> =
                left.iter().filter(|(_, may)| may.iter().all(|m| done.contains(m))).map(|r| r.0).collect();
            left.retain(|(m, _)| !ready.contains(m));
            done.extend(ready);
            assert!(left.len() < before, "a circle among {left:?}");
        }
    }
}
