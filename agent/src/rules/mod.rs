//! Rules: which accounts are replicated, which kinds of operation, and what a client waits for.
//!
//! Owns: matching (first rule that matches wins) and the result that the store is told when it opens an account.
//! What can hurt: a rule that silently matches nobody; a class or list that does not exist is an error.
//! Refuses: input at run time: [`Rules::resolve`] is pure, files are read once by [`Rules::build`].

mod hold;
mod kinds;
mod matcher;

use serde::Serialize;

use crate::config::{Config, KeyPath, Problem};
pub use hold::{Class, Hold, OnPromotion};
pub use kinds::KindMask;
use matcher::{Matcher, Sets};

/// Most replicas that one acknowledgement can wait for.
pub const LEVEL_PEERS_MAX: u8 = 15;
/// Most accounts in one list file. Past it the file is refused.
pub const LIST_ACCOUNTS_MAX: usize = 2_000_000;

/// What a client waits for before its OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nothing: replicated afterwards.
    None,
    /// fsync returned on this node.
    Local,
    /// fsync returned on this many peers.
    Peer(u8),
}

impl Level {
    /// Reads `none`, `local`, `peer`, `peer:2`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "local" => Some(Self::Local),
            "peer" => Some(Self::Peer(1)),
            _ => match text.strip_prefix("peer:")?.parse() {
                Ok(count) if (1..=LEVEL_PEERS_MAX).contains(&count) => Some(Self::Peer(count)),
                _ => None,
            },
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Local => f.write_str("local"),
            Self::Peer(1) => f.write_str("peer"),
            Self::Peer(count) => write!(f, "peer:{count}"),
        }
    }
}

impl Serialize for Level {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the store does when the acknowledgement does not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTimeout {
    GoOn,
    Refuse,
}

/// What the store does when the ring is full or no agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// At most the wait timeout, then refuse.
    Wait,
    Refuse,
    /// And mark a gap.
    GoOn,
}

/// What the rules say about one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    pub replicate: bool,
    pub kinds: KindMask,
    pub level: Level,
    pub on_timeout: OnTimeout,
    pub on_full: OnFull,
    pub wait_timeout_ms: u32,
    pub hold: Hold,
    /// Number of the rule that decided, from 0; `None` when no rule matched or none is configured.
    pub rule: Option<usize>,
    /// Name of that rule, for people.
    pub rule_name: String,
}

struct Rule {
    matcher: Matcher,
    resolved: Resolved,
}

/// The rules of a node, ready to answer.
pub struct Rules {
    rules: Vec<Rule>,
    otherwise: Resolved,
    sets: Sets,
}

impl Rules {
    /// Builds the rules and reads their lists. A list that cannot be read matches nobody, and the problem says so:
    /// a running agent goes on with the rest, a starting one refuses.
    #[must_use]
    pub fn build(config: &Config) -> (Self, Vec<Problem>) {
        Self::build_with(config, true)
    }

    /// The problems that can be seen without reading lists.
    #[must_use]
    pub fn check(config: &Config) -> Vec<Problem> {
        Self::build_with(config, false).1
    }

    fn build_with(config: &Config, read_lists: bool) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let sets = Sets::build(config, read_lists, &mut problems);
        let mut rules = Vec::new();
        let replicas_max = 1 + config.peers.len();
        for (index, rule) in config.rules.iter().enumerate() {
            let at = |name: &str| KeyPath::parse(&format!("rules[{index}].{name}"));
            let matcher = Matcher::build(index, rule, config, read_lists, &mut problems);
            let kinds = match KindMask::build(&rule.kinds.include, &rule.kinds.exclude) {
                Ok(kinds) => kinds,
                Err((which, why, remedy)) => {
                    problems.push(Problem::error(at(which), why, remedy));
                    KindMask::ALL
                }
            };
            let level = Level::parse(&rule.level).unwrap_or(Level::Local);
            if let (Level::Peer(count), true) = (level, rule.replicate)
                && usize::from(count) >= replicas_max
            {
                problems.push(Problem::error(
                    at("level"),
                    format!("waits for {count} peers, and there are {}", config.peers.len()),
                    "lower it or add peers",
                ));
            }
            let hold = Hold::build(rule).unwrap_or_else(|(why, remedy)| {
                problems.push(Problem::error(at("hold_classes"), why, remedy));
                Hold::default()
            });
            rules.push(Rule {
                matcher,
                resolved: Resolved {
                    replicate: rule.replicate,
                    kinds,
                    level: if rule.replicate { level } else { Level::None },
                    on_timeout: if rule.on_timeout == "refuse" { OnTimeout::Refuse } else { OnTimeout::GoOn },
                    on_full: match rule.on_full.as_str() {
                        "wait" => OnFull::Wait,
                        "refuse" => OnFull::Refuse,
                        _ => OnFull::GoOn,
                    },
                    wait_timeout_ms: rule.wait_timeout_ms,
                    hold,
                    rule: Some(index),
                    rule_name: rule.name.clone().unwrap_or_else(|| format!("#{index}")),
                },
            });
        }
        let none_configured = rules.is_empty();
        let otherwise = Resolved {
            replicate: none_configured,
            kinds: KindMask::ALL,
            level: if none_configured { Level::Local } else { Level::None },
            on_timeout: OnTimeout::GoOn,
            on_full: OnFull::GoOn,
            wait_timeout_ms: 2000,
            hold: Hold::default(),
            rule: None,
            rule_name: if none_configured { "(no rules: all)".to_owned() } else { "(no rule matches)".to_owned() },
        };
        (Self { rules, otherwise, sets }, problems)
    }

    /// What holds for an account: the first rule that matches; when none does, the account is not replicated;
    /// when no rule is configured at all, every account is, at level `local`.
    #[must_use]
    pub fn resolve(&self, account: &str) -> &Resolved {
        self.rules
            .iter()
            .find(|rule| rule.matcher.matches(account, &self.sets))
            .map_or(&self.otherwise, |rule| &rule.resolved)
    }

    /// Accounts that a list or a pattern without wildcards names: what can be known without asking the store.
    #[must_use]
    pub fn named_accounts(&self) -> Vec<String> {
        let mut named: Vec<String> = self
            .rules
            .iter()
            .flat_map(|rule| rule.matcher.named())
            .chain(self.sets.named())
            .map(str::to_owned)
            .collect();
        named.sort_unstable();
        named.dedup();
        named
    }
}

#[cfg(test)]
mod tests;
