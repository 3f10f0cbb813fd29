//! Whether a rule is for an account: globs, domains, classes, lists, exclusions.
//!
//! Owns: compiled patterns and the lists that were read. What can hurt: a list of any size in the configuration
//! directory; files are bounded by [`crate::config::FILE_BYTES_MAX`] and [`super::LIST_ACCOUNTS_MAX`].
//! Refuses: matching by anything but the account's name.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::LIST_ACCOUNTS_MAX;
use crate::config::model::RuleConfig;
use crate::config::{Config, Problem};

/// Accounts by glob and by list.
#[derive(Default)]
struct Set {
    globs: GlobSet,
    /// Patterns without wildcards, for [`super::Rules::named_accounts`].
    plain: Vec<String>,
    list: HashSet<Box<str>>,
}

impl Set {
    fn build(key: &str, globs: &[String], file: Option<&Path>, read_lists: bool, problems: &mut Vec<Problem>) -> Self {
        let list = match file {
            Some(path) if read_lists => read_list(path).unwrap_or_else(|mut problem| {
                problem.key = if key.is_empty() { "file".to_owned() } else { format!("{key}.file") };
                problems.push(problem);
                HashSet::new()
            }),
            _ => HashSet::new(),
        };
        let plain = globs.iter().filter(|glob| !glob.contains(['*', '?', '[', '{', '\\'])).cloned().collect();
        Self { globs: compile(&format!("{key}.accounts"), globs, problems), plain, list }
    }

    fn contains(&self, account: &str) -> bool {
        self.list.contains(account) || self.globs.is_match(account)
    }

    fn named(&self) -> impl Iterator<Item = &str> {
        self.plain.iter().map(String::as_str).chain(self.list.iter().map(|name| &**name))
    }
}

/// The classes of a configuration.
#[derive(Default)]
pub(super) struct Sets {
    classes: BTreeMap<String, Set>,
}

impl Sets {
    pub(super) fn build(config: &Config, read_lists: bool, problems: &mut Vec<Problem>) -> Self {
        let classes = config.classes.iter().map(|(name, class)| {
            let key = format!("classes.{name}");
            (name.clone(), Set::build(&key, &class.accounts, class.file.as_deref(), read_lists, problems))
        });
        Self { classes: classes.collect() }
    }

    pub(super) fn named(&self) -> impl Iterator<Item = &str> {
        self.classes.values().flat_map(Set::named)
    }
}

/// One rule's conditions.
pub(super) struct Matcher {
    /// The rule names nobody, so it is for all.
    everybody: bool,
    set: Set,
    domains: Vec<String>,
    classes: Vec<String>,
    exclude: GlobSet,
}

impl Matcher {
    pub(super) fn build(
        index: usize,
        rule: &RuleConfig,
        config: &Config,
        read_lists: bool,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let key = format!("rules[{index}]");
        for class in rule.classes.iter().filter(|class| !config.classes.contains_key(*class)) {
            let near = crate::config::keys::nearest(class, config.classes.keys().map(String::as_str));
            let remedy =
                near.map_or_else(|| format!("write `[classes.{class}]`"), |near| format!("did you mean `{near}`?"));
            problems.push(Problem::error(format!("{key}.classes"), format!("there is no class `{class}`"), remedy));
        }
        Self {
            everybody: rule.accounts.is_empty()
                && rule.domains.is_empty()
                && rule.classes.is_empty()
                && rule.file.is_none(),
            set: Set::build(&key, &rule.accounts, rule.file.as_deref(), read_lists, problems),
            domains: rule.domains.iter().map(|domain| domain.trim_start_matches('@').to_lowercase()).collect(),
            classes: rule.classes.clone(),
            exclude: compile(&format!("{key}.exclude"), &rule.exclude, problems),
        }
    }

    pub(super) fn matches(&self, account: &str, sets: &Sets) -> bool {
        let named = self.everybody
            || self.set.contains(account)
            || (!self.domains.is_empty() && self.in_domain(account))
            || self.classes.iter().any(|class| sets.classes.get(class).is_some_and(|set| set.contains(account)));
        named && !self.exclude.is_match(account)
    }

    fn in_domain(&self, account: &str) -> bool {
        account.rsplit_once('@').is_some_and(|(_, domain)| self.domains.contains(&domain.to_lowercase()))
    }

    pub(super) fn named(&self) -> impl Iterator<Item = &str> {
        self.set.named()
    }
}

fn compile(key: &str, globs: &[String], problems: &mut Vec<Problem>) -> GlobSet {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        // `*` also stands for `/`: an account is a name, not a path.
        match GlobBuilder::new(glob).literal_separator(false).build() {
            Ok(compiled) => {
                builder.add(compiled);
            }
            Err(error) => problems.push(Problem::error(key, format!("`{glob}` is no pattern: {}", error.kind()), "")),
        }
    }
    builder.build().unwrap_or_else(|error| {
        problems.push(Problem::error(key, format!("patterns cannot be compiled: {error}"), "use fewer, or a file"));
        GlobSet::empty()
    })
}

/// One account on each line; blanks around it and everything after `#` are left out.
fn read_list(path: &Path) -> Result<HashSet<Box<str>>, Problem> {
    let text = crate::config::read(path)?;
    let lines = || text.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty());
    let count = lines().count();
    if count > LIST_ACCOUNTS_MAX {
        return Err(Problem::error(
            "",
            format!("`{}` names {count} accounts, at most {LIST_ACCOUNTS_MAX} are taken", path.display()),
            "use globs or domains",
        ));
    }
    Ok(lines().map(Into::into).collect())
}
