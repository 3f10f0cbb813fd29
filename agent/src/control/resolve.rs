//! One account's row in the table of `rules resolve`: placement and rules side by side.
//!
//! Owns: joining the two. Pure, so that the command line says without an agent what the agent would do.

use super::model::{RuleHold, RuleRow};
use crate::config::{Config, Placement};
use crate::rules::{OnFull, OnTimeout, Rules};

/// What holds for an account.
#[must_use]
pub fn row(config: &Config, placement: &Placement, rules: &Rules, account: &str) -> RuleRow {
    let resolved = rules.resolve(account);
    let id = placement.group_of(account);
    let (active, replicas) = placement.group(id).map_or_else(Default::default, |group| {
        (config.node_name(group.active), group.replicas.iter().map(|node| config.node_name(*node)).collect())
    });
    RuleRow {
        account: account.to_owned(),
        group: id.0,
        active,
        replicas: if resolved.replicate { replicas } else { Vec::new() },
        replicate: resolved.replicate,
        level: resolved.level.to_string(),
        kinds: if resolved.replicate {
            resolved.kinds.names().into_iter().map(str::to_owned).collect()
        } else {
            Vec::new()
        },
        on_timeout: match resolved.on_timeout {
            OnTimeout::GoOn => "go-on",
            OnTimeout::Refuse => "refuse",
        }
        .to_owned(),
        on_full: match resolved.on_full {
            OnFull::Wait => "wait",
            OnFull::Refuse => "refuse",
            OnFull::GoOn => "go-on",
        }
        .to_owned(),
        wait_timeout_ms: resolved.wait_timeout_ms,
        hold: RuleHold::of(&resolved.hold),
        rule: resolved.rule_name.clone(),
    }
}
