//! Documents against code: commands, paths, settings and metrics that a document names must exist.
//!
//! Owns: what counts as naming one. What can hurt: prose that only looks like a name; only text in backticks and code
//! blocks is looked at. Refuses: judging the prose.

use super::files::SourceFile;
use std::path::Path;

/// Findings in all documents.
pub(super) fn check(root: &Path, files: &[SourceFile]) -> Vec<String> {
    let commands = crate::command_names();
    let mut problems = Vec::new();
    for file in files.iter().filter(|f| f.path.ends_with(".md")) {
        let page = Page { file, root, files };
        problems.extend(page.commands(&commands));
        if !file.path.ends_with("CHANGELOG.md") {
            problems.extend(page.paths());
        }
        problems.extend(page.metrics());
    }
    problems
}

struct Page<'a> {
    file: &'a SourceFile,
    root: &'a Path,
    files: &'a [SourceFile],
}

impl Page<'_> {
    /// Every `cargo xtask X` is a command.
    fn commands(&self, commands: &[String]) -> Vec<String> {
        let mut problems = Vec::new();
        for (n, line) in self.file.lines().enumerate() {
            for (at, found) in line.match_indices("cargo xtask ") {
                let rest = &line[at + found.len()..];
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect();
                let known = commands.contains(&name) || name == "help" || name.starts_with('-');
                if !name.is_empty() && name.chars().all(|c| !c.is_ascii_uppercase()) && !known {
                    problems.push(format!("{}:{}: there is no `cargo xtask {name}`", self.file.path, n + 1));
                }
            }
        }
        problems
    }

    /// Every path in backticks that begins with one of our top folders is there.
    fn paths(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (n, word) in self.backticked() {
            let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
            let top = word.split('/').next().unwrap_or("");
            let ours = word.contains('/') && !top.is_empty() && top != "target";
            let ours = ours && self.files.iter().any(|f| f.path.split_once('/').is_some_and(|(t, _)| t == top));
            let relative = self.root.join(&self.file.path).parent().map(|p| p.join(&word));
            let there = self.root.join(&word).exists() || relative.is_some_and(|p| p.exists());
            if plain && ours && !there {
                problems.push(format!("{}:{n}: there is no `{word}`", self.file.path));
            }
        }
        problems
    }

    /// Every metric in backticks is made by the agent.
    fn metrics(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (n, word) in self.backticked() {
            let name: String =
                word.chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_').collect();
            let units = ["_total", "_seconds", "_bytes", "_ratio", "_info"];
            let Some(inner) = name.strip_prefix("understudy_") else { continue };
            if !units.iter().any(|u| inner.ends_with(u)) {
                continue; // the C ABI has names like these too
            }
            // The library adds `_total` and units itself, so the registered name may lack them.
            let mut stem = inner;
            let mut names = vec![stem];
            while let Some(shorter) = units.iter().find_map(|u| stem.strip_suffix(u)) {
                stem = shorter;
                names.push(stem);
            }
            let code = self.files.iter().filter(|f| f.path.starts_with("agent/src/"));
            let made = code
                .filter_map(|f| f.text.as_deref())
                .any(|text| names.iter().any(|n| text.contains(&format!("{n}\""))));
            if !made {
                problems.push(format!("{}:{n}: the agent makes no metric `{name}`", self.file.path));
            }
        }
        problems
    }

    /// Words between single backticks outside code blocks, with their line.
    fn backticked(&self) -> Vec<(usize, String)> {
        let mut words = Vec::new();
        let mut in_block = false;
        for (n, line) in self.file.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
            } else if !in_block {
                let odd = line.split('`').enumerate().filter(|(nth, _)| nth % 2 == 1);
                words.extend(odd.map(|(_, word)| (n + 1, word.to_owned())));
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let files = [
            SourceFile::of("docs/a.md", text),
            SourceFile::of("agent/src/metrics/mod.rs", "register(\"ring_dropped\", …)"),
        ];
        check(Path::new("/nowhere"), &files)
    }

    #[test]
    fn commands_paths_and_metrics_are_held_against_the_code() {
        assert!(problems("run `cargo xtask test` and `cargo xtask COMMAND`").is_empty());
        assert_eq!(problems("run `cargo xtask dance`").len(), 1);
        assert_eq!(problems("see `agent/src/nothing.rs`").len(), 1);
        assert!(problems("see `some/where/else` and `target/x`").is_empty());
        assert!(problems("count `understudy_ring_dropped_total`").is_empty());
        assert_eq!(problems("count `understudy_never_made_total`").len(), 1);
    }
}
