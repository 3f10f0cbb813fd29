//! The place of a value in the configuration: `ring.bytes`, `peers[0].id`, `placement.accounts."u@example.test"`.
//!
//! Owns: parsing and printing of such places, and matching them with the patterns of the key table, where `[]`
//! stands for any element and `*` for any name. Refuses: nothing; a text is always some path.

use std::fmt;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Name(String),
    Index(usize),
}

/// A concrete place.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath(pub Vec<Step>);

/// One step of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternStep {
    Name(&'static str),
    AnyIndex,
    AnyName,
}

impl KeyPath {
    /// This path and one step more.
    #[must_use]
    pub fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// This path and one name more.
    #[must_use]
    pub fn with_name(&self, name: &str) -> Self {
        self.with(Step::Name(name.to_owned()))
    }

    /// Reads what [`fmt::Display`] prints.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('"') {
                let end = after.find('"').unwrap_or(after.len());
                steps.push(Step::Name(after[..end].to_owned()));
                rest = after.get(end + 1..).unwrap_or("");
            } else if let Some((index, after)) = rest
                .strip_prefix('[')
                .and_then(|inner| inner.split_once(']'))
                .and_then(|(digits, after)| Some((digits.parse().ok()?, after)))
            {
                steps.push(Step::Index(index));
                rest = after;
            } else {
                let end =
                    rest.char_indices().skip(1).find(|(_, c)| matches!(c, '.' | '[')).map_or(rest.len(), |(at, _)| at);
                steps.push(Step::Name(rest[..end].to_owned()));
                rest = &rest[end..];
            }
            rest = rest.strip_prefix('.').unwrap_or(rest);
        }
        Self(steps)
    }

    /// This path begins like the pattern does, as far as the path goes.
    #[must_use]
    pub fn begins(&self, pattern: &[PatternStep]) -> bool {
        self.0.len() <= pattern.len() && self.0.iter().zip(pattern).all(|(step, wanted)| fits(step, wanted))
    }

    /// This path is exactly what the pattern names.
    #[must_use]
    pub fn is(&self, pattern: &[PatternStep]) -> bool {
        self.0.len() == pattern.len() && self.begins(pattern)
    }
}

fn fits(step: &Step, wanted: &PatternStep) -> bool {
    match (step, wanted) {
        (Step::Name(name), PatternStep::Name(want)) => name == want,
        (Step::Name(_), PatternStep::AnyName) | (Step::Index(_), PatternStep::AnyIndex) => true,
        _ => false,
    }
}

/// Reads a pattern of the key table.
#[must_use]
pub fn pattern(text: &'static str) -> Vec<PatternStep> {
    let mut steps = Vec::new();
    for part in text.split('.') {
        let (name, any_index) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
        steps.push(if name == "*" { PatternStep::AnyName } else { PatternStep::Name(name) });
        if any_index {
            steps.push(PatternStep::AnyIndex);
        }
    }
    steps
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Name(name) => {
                    if at > 0 {
                        f.write_str(".")?;
                    }
                    let bare =
                        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
                    if bare { f.write_str(name)? } else { write!(f, "\"{name}\"")? }
                }
            }
        }
        Ok(())
    }
}

impl serde::Serialize for KeyPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_what_it_prints() {
        for text in ["ring.bytes", "peers[0].id", "placement.accounts.\"u1@example.test\"", "classes.vip.accounts"] {
            assert_eq!(KeyPath::parse(text).to_string(), text);
        }
    }

    #[test]
    fn patterns_match_any_element_and_any_name() {
        assert!(KeyPath::parse("peers[7].id").is(&pattern("peers[].id")));
        assert!(KeyPath::parse("classes.vip.file").is(&pattern("classes.*.file")));
        assert!(KeyPath::parse("peers").begins(&pattern("peers[].id")));
        assert!(!KeyPath::parse("peers.id").begins(&pattern("peers[].id")));
    }

    #[test]
    fn odd_texts_end() {
        for text in ["", "[", "[x]", "a..b", "\"", ".", "a[999999999999999999999]"] {
            let _ = KeyPath::parse(text);
        }
    }
}
