//! From file, environment and flags to one table of values, each with its origin.
//!
//! Owns: finding keys that do not exist and naming the nearest one that does; the order of precedence; filling in
//! defaults. What can hurt: a file with any bytes in it; everything wrong becomes a [`Problem`] with its line.
//! Refuses: knowing what values mean; that is `check`'s.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::keys::{self, KEYS, Key};
use super::path::{KeyPath, PatternStep, Step, pattern};
use super::{ENV_PREFIX, Origin, Problem};

/// A value that somebody set.
pub(super) struct Setting {
    pub path: KeyPath,
    pub value: Value,
    pub origin: Origin,
}

/// The key table with its patterns read once.
static TABLE: LazyLock<Vec<(Vec<PatternStep>, &'static Key)>> =
    LazyLock::new(|| KEYS.iter().map(|key| (pattern(key.path), key)).collect());

type Values = BTreeMap<KeyPath, (Value, Origin)>;

/// The key that exactly fits, if there is one.
fn key_of(path: &KeyPath) -> Option<&'static Key> {
    TABLE.iter().find(|(steps, _)| path.is(steps)).map(|(_, key)| *key)
}

/// Names and steps that may follow `path`.
fn steps_after(path: &KeyPath) -> Vec<PatternStep> {
    let mut found = Vec::new();
    for (steps, _) in TABLE.iter() {
        if path.0.len() < steps.len() && path.begins(steps) && !found.contains(&steps[path.0.len()]) {
            found.push(steps[path.0.len()]);
        }
    }
    found
}

/// Reads the settings of a TOML text.
pub(super) fn from_file(file: &Path, text: &str, problems: &mut Vec<Problem>) -> Vec<Setting> {
    // Looked up, not counted each time: a placement may name a hundred thousand accounts, one on each line.
    let ends: Vec<usize> = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
    let line = |at: usize| ends.partition_point(|end| *end < at) + 1;
    let origin = |at: usize| Origin::File { path: file.to_path_buf(), line: line(at) };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            problems.push(Problem::error("", format!("not TOML: {}", error.message()), "").at(origin(at)));
            return Vec::new();
        }
    };
    let mut settings = Vec::new();
    walk_table(&KeyPath::default(), table.get_ref(), &origin, &mut settings, problems);
    settings
}

fn walk_table(
    at: &KeyPath,
    table: &DeTable<'_>,
    origin: &dyn Fn(usize) -> Origin,
    settings: &mut Vec<Setting>,
    problems: &mut Vec<Problem>,
) {
    // In order of the file, so that problems come in the order in which they will be repaired.
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        let path = at.with_name(name.get_ref());
        walk(&path, name.span().start, value.get_ref(), origin, settings, problems);
    }
}

fn walk(
    path: &KeyPath,
    at: usize,
    value: &DeValue<'_>,
    origin: &dyn Fn(usize) -> Origin,
    settings: &mut Vec<Setting>,
    problems: &mut Vec<Problem>,
) {
    if let Some(key) = key_of(path) {
        match to_value(value).and_then(|value| key.kind.normalise(&value)) {
            Ok(value) => settings.push(Setting { path: path.clone(), value, origin: origin(at) }),
            Err(why) => problems.push(Problem::error(path, why, "").at(origin(at))),
        }
        return;
    }
    let after = steps_after(path);
    match value {
        _ if after.is_empty() => problems.push(unknown(path).at(origin(at))),
        DeValue::Table(table) if !after.contains(&PatternStep::AnyIndex) => {
            walk_table(path, table, origin, settings, problems);
        }
        DeValue::Array(list) if after.contains(&PatternStep::AnyIndex) => {
            for (index, item) in list.iter().enumerate() {
                let path = path.with(Step::Index(index));
                match item.get_ref() {
                    DeValue::Table(table) => {
                        // An empty element still counts: its required keys are missing, and it is said so.
                        settings.push(Setting {
                            path: path.clone(),
                            value: Value::Table(toml::Table::new()),
                            origin: origin(item.span().start),
                        });
                        walk_table(&path, table, origin, settings, problems);
                    }
                    _ => problems.push(
                        Problem::error(&path, "expected a table", format!("write it as `[[{}]]`", plain(&path)))
                            .at(origin(item.span().start)),
                    ),
                }
            }
        }
        _ if after.contains(&PatternStep::AnyIndex) => {
            problems.push(
                Problem::error(path, "expected a list of tables", format!("write it as `[[{path}]]`")).at(origin(at)),
            );
        }
        _ => problems.push(Problem::error(path, "expected a table", format!("write it as `[{path}]`")).at(origin(at))),
    }
}

/// A path without its indices, as it stands between double brackets.
fn plain(path: &KeyPath) -> KeyPath {
    KeyPath(path.0.iter().filter(|step| matches!(step, Step::Name(_))).cloned().collect())
}

fn to_value(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            Value::Integer(
                i64::from_str_radix(&digits, number.radix()).map_err(|_| format!("number `{digits}` is too large"))?,
            )
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().map_err(|_| "not a number".to_owned())?),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(time) => Value::Datetime(*time),
        DeValue::Array(list) => {
            Value::Array(list.iter().map(|item| to_value(item.get_ref())).collect::<Result<_, _>>()?)
        }
        DeValue::Table(_) => Value::Table(toml::Table::new()),
    })
}

/// "Unknown key", with the nearest one that exists at this place, or of this name at another place.
fn unknown(path: &KeyPath) -> Problem {
    let mut known = KeyPath::default();
    for step in &path.0 {
        let next = known.with(step.clone());
        if key_of(&next).is_none() && steps_after(&next).is_empty() {
            break;
        }
        known = next;
    }
    let wrong = match path.0.get(known.0.len()) {
        Some(Step::Name(name)) => name.as_str(),
        _ => "",
    };
    let here: Vec<&str> = steps_after(&known)
        .into_iter()
        .filter_map(|step| if let PatternStep::Name(name) = step { Some(name) } else { None })
        .collect();
    let suggestion =
        keys::nearest(wrong, here.iter().copied()).map(|name| known.with_name(name).to_string()).or_else(|| {
            let leaf = |key: &'static Key| key.path.rsplit('.').next().unwrap_or(key.path);
            let near = keys::nearest(wrong, KEYS.iter().map(leaf))?;
            KEYS.iter().find(|key| leaf(key) == near).map(|key| key.path.to_owned())
        });
    let remedy = match suggestion {
        Some(near) => format!("did you mean `{near}`?"),
        None if here.is_empty() => "see `understudy.toml(5)`".to_owned(),
        None => format!("here can stand: {}", here.join(", ")),
    };
    Problem::error(path, "unknown key", remedy)
}

/// Reads `UNDERSTUDY_SECTION__KEY=VALUE`. Variables without a double underscore are not ours to judge.
pub(super) fn from_env(env: &[(String, String)], problems: &mut Vec<Problem>) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (name, text) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX).filter(|rest| rest.contains("__")) else { continue };
        let path = KeyPath(
            rest.split("__")
                .map(|part| part.parse().map_or_else(|_| Step::Name(part.to_ascii_lowercase()), Step::Index))
                .collect(),
        );
        one(path, text, &Origin::Env { name: name.clone() }, &mut settings, problems);
    }
    settings.sort_by(|a, b| a.path.cmp(&b.path));
    settings
}

/// Reads `KEY=VALUE` of the command line.
pub(super) fn from_flags(flags: &[String], problems: &mut Vec<Problem>) -> Vec<Setting> {
    let mut settings = Vec::new();
    for flag in flags {
        // The key may hold a quoted account; the value follows the last `=` that a key can end at: the first one.
        match flag.split_once('=') {
            Some((key, text)) => one(KeyPath::parse(key.trim()), text, &Origin::Flag, &mut settings, problems),
            None => problems.push(
                Problem::error("", format!("`--set {flag}` has no `=`"), "write `--set KEY=VALUE`").at(Origin::Flag),
            ),
        }
    }
    settings
}

fn one(path: KeyPath, text: &str, origin: &Origin, settings: &mut Vec<Setting>, problems: &mut Vec<Problem>) {
    match key_of(&path) {
        None => problems.push(unknown(&path).at(origin.clone())),
        Some(key) => match key.kind.parse(text) {
            Ok(value) => settings.push(Setting { path, value, origin: origin.clone() }),
            Err(why) => problems.push(Problem::error(&path, why, "").at(origin.clone())),
        },
    }
}

/// Later settings win; then defaults are filled in, and required keys that are missing are named.
pub(super) fn merge(settings: Vec<Setting>, problems: &mut Vec<Problem>) -> Values {
    let mut values = Values::new();
    let mut elements: BTreeMap<KeyPath, Origin> = BTreeMap::new();
    for setting in settings {
        let mut prefix = KeyPath::default();
        for step in &setting.path.0 {
            prefix = prefix.with(step.clone());
            if matches!(step, Step::Index(_)) && !elements.contains_key(&prefix) {
                elements.insert(prefix.clone(), setting.origin.clone());
            }
        }
        if !matches!(setting.path.0.last(), Some(Step::Index(_))) {
            values.insert(setting.path, (setting.value, setting.origin));
        }
    }
    for (element, origin) in &elements {
        if let (Some(Step::Index(index)), list) = (element.0.last(), KeyPath(element.0[..element.0.len() - 1].to_vec()))
            && *index > 0
            && !elements.contains_key(&list.with(Step::Index(index - 1)))
        {
            problems.push(
                Problem::error(
                    element,
                    format!("there is no `{}`", list.with(Step::Index(index - 1))),
                    "number them from 0",
                )
                .at(origin.clone()),
            );
        }
    }
    // Names that stand for `*`, as they were used.
    let named: Vec<KeyPath> = values.keys().cloned().collect();
    for key in KEYS {
        for path in places(key, &elements, &named) {
            if values.contains_key(&path) {
                continue;
            }
            match key.default {
                keys::Default::Unset => {}
                keys::Default::Required => {
                    let (parent, name) = (KeyPath(path.0[..path.0.len() - 1].to_vec()), path.0.last().cloned());
                    let name = KeyPath(name.into_iter().collect());
                    let names = plain(&parent);
                    let section = if names == parent { format!("[{names}]") } else { format!("[[{names}]]") };
                    let remedy = format!("for example `{name} = {}` in `{section}`", key.sample);
                    let mut problem = Problem::error(&path, "must be set", remedy);
                    problem.origin = elements.get(&parent).cloned();
                    problems.push(problem);
                }
                keys::Default::Is(text) => match format!("value = {text}")
                    .parse::<toml::Table>()
                    .ok()
                    .and_then(|mut table| table.remove("value"))
                {
                    Some(value) => {
                        let value = key.kind.normalise(&value).unwrap_or(value);
                        values.insert(path, (value, Origin::Default));
                    }
                    None => problems.push(Problem::error(
                        &path,
                        format!("built-in default `{text}` is malformed"),
                        "report this",
                    )),
                },
                keys::Default::Under(directory, name) => {
                    if let Some((Value::String(parent), _)) = values.get(&KeyPath::parse(directory)) {
                        let value = Value::String(format!("{}/{name}", parent.trim_end_matches('/')));
                        values.insert(path, (value, Origin::Default));
                    }
                }
            }
        }
    }
    values
}

/// Every concrete place of a key: one, or one for each element or name that exists.
fn places(key: &Key, elements: &BTreeMap<KeyPath, Origin>, named: &[KeyPath]) -> Vec<KeyPath> {
    let steps = pattern(key.path);
    if let Some(at) = steps.iter().position(|step| *step == PatternStep::AnyIndex) {
        return elements
            .keys()
            .filter(|element| element.is(&steps[..=at]))
            .map(|element| extend(element, &steps[at + 1..]))
            .collect();
    }
    if let Some(at) = steps.iter().position(|step| *step == PatternStep::AnyName) {
        if at + 1 == steps.len() {
            return Vec::new();
        }
        let mut found: Vec<KeyPath> = Vec::new();
        for path in named.iter().filter(|path| path.0.len() > at && KeyPath(path.0[..=at].to_vec()).begins(&steps)) {
            let place = extend(&KeyPath(path.0[..=at].to_vec()), &steps[at + 1..]);
            if !found.contains(&place) {
                found.push(place);
            }
        }
        return found;
    }
    vec![extend(&KeyPath::default(), &steps)]
}

fn extend(path: &KeyPath, steps: &[PatternStep]) -> KeyPath {
    steps.iter().fold(path.clone(), |path, step| match step {
        PatternStep::Name(name) => path.with_name(name),
        PatternStep::AnyIndex | PatternStep::AnyName => path,
    })
}

/// The values as nested tables. Indices without gaps are `merge`'s promise; a gap would only close up.
pub(super) fn to_table(values: &Values) -> toml::Table {
    let mut root = toml::Table::new();
    for (path, (value, _)) in values {
        put(&mut root, &path.0, value);
    }
    root
}

fn put(table: &mut toml::Table, steps: &[Step], value: &Value) {
    match steps {
        [Step::Name(name)] => {
            table.insert(name.clone(), value.clone());
        }
        [Step::Name(name), Step::Index(index), rest @ ..] => {
            let Value::Array(list) = table.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new())) else {
                return;
            };
            if list.len() <= *index {
                list.push(Value::Table(toml::Table::new()));
            }
            if let Some(Value::Table(inner)) = list.last_mut() {
                put(inner, rest, value);
            }
        }
        [Step::Name(name), rest @ ..] => {
            let inner = table.entry(name.clone()).or_insert_with(|| Value::Table(toml::Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
        _ => {}
    }
}
