//! The key table: every key of the configuration with its type, default and meaning.
//!
//! Owns: what exists. The loader, the suggestions, the environment's names, the defaults and
//! `docs/configuration.md` all come from here, so that they cannot disagree. Refuses: keys that nothing reads.

use toml::Value;

pub use super::table::KEYS;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// The type of a value, and its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Text,
    /// Absolute path of a file or directory.
    Path,
    PathList,
    TextList,
    /// Inclusive range.
    Integer(i64, i64),
    /// Number of bytes, or a text such as `"16 MiB"`; inclusive range.
    Bytes(u64, u64),
    Bool,
    Choice(&'static [&'static str]),
    /// `host:port`; a text that is empty switches it off.
    Address,
    /// Permission bits as octal text.
    Mode,
    /// A number, or a text that is hashed to one.
    Cluster,
    /// A node's id or its name.
    Node,
    NodeList,
    /// A list of group numbers such as `"0-49,60"`.
    Groups,
    /// `none`, `local`, `peer` or `peer:K`.
    Level,
}

/// What a key has when nobody sets it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// Must be set.
    Required,
    /// Stays unset.
    Unset,
    /// A value in TOML's syntax.
    Is(&'static str),
    /// A path under the directory that another key names.
    Under(&'static str, &'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `ring.bytes`, `peers[].id`, `classes.*.file`.
    pub path: &'static str,
    pub kind: Kind,
    pub default: Default,
    /// One sentence or two for `docs/configuration.md`.
    pub doc: &'static str,
    /// A value that is valid, in TOML's syntax: for the manual and for the test that the table and the types agree.
    pub sample: &'static str,
    /// Not to be printed.
    pub secret: bool,
}

impl Kind {
    /// Checks a value and brings it into the one form that the types know.
    ///
    /// # Errors
    ///
    /// What was expected, for the administrator.
    pub fn normalise(self, value: &Value) -> Result<Value, String> {
        let wrong = || Err(format!("expected {}, found {}", self.describe(), show(value)));
        match (self, value) {
            (Self::Text, Value::String(text)) if text.chars().any(char::is_control) => wrong(),
            (Self::Text, Value::String(_)) | (Self::Bool, Value::Boolean(_)) => Ok(value.clone()),
            (Self::Path, Value::String(text)) if text.starts_with('/') => Ok(value.clone()),
            (Self::PathList, Value::Array(list)) if list.iter().all(|item| Self::Path.normalise(item).is_ok()) => {
                Ok(value.clone())
            }
            (Self::TextList, Value::Array(list)) if list.iter().all(|item| Self::Text.normalise(item).is_ok()) => {
                Ok(value.clone())
            }
            (Self::Integer(min, max), Value::Integer(number)) if (min..=max).contains(number) => Ok(value.clone()),
            (Self::Bytes(min, max), _) => match bytes(value) {
                Some(number) if (min..=max).contains(&number) => {
                    i64::try_from(number).map(Value::Integer).or_else(|_| wrong())
                }
                _ => wrong(),
            },
            (Self::Choice(choices), Value::String(text)) if choices.contains(&text.as_str()) => Ok(value.clone()),
            (Self::Choice(choices), Value::String(text)) => match nearest(text, choices.iter().copied()) {
                Some(near) => {
                    Err(format!("expected {}, found {}; did you mean `{near}`?", self.describe(), show(value)))
                }
                None => wrong(),
            },
            (Self::Address, Value::String(text)) if text.is_empty() || is_address(text) => Ok(value.clone()),
            (Self::Mode, Value::String(text)) => match i64::from_str_radix(text.trim_start_matches("0o"), 8) {
                Ok(bits) if (0..=0o777).contains(&bits) => Ok(Value::Integer(bits)),
                _ => wrong(),
            },
            (Self::Cluster, Value::Integer(number)) if *number >= 0 => Ok(value.clone()),
            (Self::Cluster, Value::String(text)) if !text.is_empty() => Ok(value.clone()),
            (Self::Node, Value::Integer(number)) if (1..=4095).contains(number) => Ok(value.clone()),
            (Self::Node, Value::String(text)) if !text.is_empty() => Ok(value.clone()),
            (Self::NodeList, Value::Array(list)) if list.iter().all(|item| Self::Node.normalise(item).is_ok()) => {
                Ok(value.clone())
            }
            (Self::Groups, Value::Integer(number)) if *number >= 0 => Ok(Value::String(number.to_string())),
            (Self::Groups, Value::String(text)) if super::placement::parse_groups(text).is_ok() => Ok(value.clone()),
            (Self::Level, Value::String(text)) if crate::rules::Level::parse(text).is_some() => Ok(value.clone()),
            _ => wrong(),
        }
    }

    /// Reads the text of an environment variable or flag: lists are separated by commas, or are in TOML's syntax.
    ///
    /// # Errors
    ///
    /// As [`Kind::normalise`].
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let as_toml =
            || format!("value = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
        let value = match self {
            Self::Integer(..) | Self::Bool => as_toml(),
            Self::Bytes(..) | Self::Cluster | Self::Node | Self::Groups => {
                text.parse().ok().map(Value::Integer).or_else(|| Some(Value::String(text.to_owned())))
            }
            Self::PathList | Self::TextList | Self::NodeList => {
                as_toml().filter(Value::is_array).or_else(|| Some(Value::Array(split_list(self, text))))
            }
            _ => Some(Value::String(text.to_owned())),
        };
        self.normalise(&value.unwrap_or_else(|| Value::String(text.to_owned())))
    }

    /// The type in words, for errors and the manual.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Path => "an absolute path".into(),
            Self::PathList => "a list of absolute paths".into(),
            Self::TextList => "a list of texts".into(),
            Self::Integer(min, max) => format!("a number from {min} to {max}"),
            Self::Bytes(min, max) => format!("bytes from {} to {}", show_bytes(min), show_bytes(max)),
            Self::Bool => "`true` or `false`".into(),
            Self::Choice(choices) => {
                let quoted: Vec<_> = choices.iter().map(|choice| format!("`{choice}`")).collect();
                if let [one] = quoted.as_slice() { one.clone() } else { format!("one of {}", quoted.join(", ")) }
            }
            Self::Address => "`host:port`".into(),
            Self::Mode => "octal permission bits as text".into(),
            Self::Cluster => "a number or a text".into(),
            Self::Node => "a node's id or name".into(),
            Self::NodeList => "a list of nodes' ids or names".into(),
            Self::Groups => "groups such as `\"0-49,60\"`".into(),
            Self::Level => "`none`, `local`, `peer` or `peer:K` (K from 1 to 15)".into(),
        }
    }
}

fn split_list(kind: Kind, text: &str) -> Vec<Value> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| match (kind, item.parse()) {
            (Kind::NodeList, Ok(number)) => Value::Integer(number),
            _ => Value::String(item.to_owned()),
        })
        .collect()
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// A number of bytes, or a text such as `"16 MiB"`, `"16MiB"`, `"1 GB"`.
fn bytes(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Integer(number) => return u64::try_from(*number).ok(),
        Value::String(text) => text.trim(),
        _ => return None,
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => 1 << 30,
        "TiB" => TIB,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

/// Bytes in the largest binary unit that divides them.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    for (unit, name) in [(TIB, "TiB"), (1 << 30, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    bytes.to_string()
}

/// A value in a few words of an error.
fn show(value: &Value) -> String {
    let text = match value {
        Value::Table(_) => "a table".to_owned(),
        _ => format!("`{value}`"),
    };
    if text.chars().count() > 80 { format!("{}…`", text.chars().take(78).collect::<String>()) } else { text }
}

/// The candidate that is most like `word`, if any is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&word, candidate), candidate))
        .filter(|(score, _)| *score >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
