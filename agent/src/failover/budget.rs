//! The recovery budget: how long the stages of a failover take at most, and whether they fit into what was declared.
//!
//! Owns: the sums. What can hurt: a promise to users that the settings cannot keep; so it is refused when it is
//! configured. Refuses: measuring; what was measured stands in the track record.

use serde::Serialize;

use super::Settings;
use super::observe::MS;
use crate::limits::{FAILOVER_MARGIN_MS, FAILOVER_TAILS_MS_MAX};

/// A transaction of the coordinator takes no longer in 99 of 100 cases: assumed.
const TRANSACTION_MS: u64 = 100;
/// For applying what the journal holds, and raising the first account: assumed.
const APPLY_MS: u64 = 500;
/// A client tries again: assumed.
const CLIENT_MS: u64 = 500;
/// Between two looks at the store.
const LOOK_MS: u64 = 100;

/// One stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    pub name: &'static str,
    pub ms_max: u64,
}

/// The stages of both kinds of loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stages {
    pub node_lost: Vec<Stage>,
    pub store_stalled: Vec<Stage>,
}

impl Stages {
    /// The longer sum, in milliseconds.
    #[must_use]
    pub fn ms_max(&self) -> u64 {
        sum(&self.node_lost).max(sum(&self.store_stalled))
    }
}

fn sum(stages: &[Stage]) -> u64 {
    stages.iter().fold(0, |sum, stage| sum.saturating_add(stage.ms_max))
}

fn listed(stages: &[Stage]) -> String {
    let each: Vec<String> = stages.iter().map(|stage| format!("{} {} ms", stage.name, stage.ms_max)).collect();
    format!("{} = {} ms", each.join(" + "), sum(stages))
}

/// The stages with these settings.
#[must_use]
pub fn stages(settings: &Settings) -> Stages {
    let stage = |name, ms_max| Stage { name, ms_max };
    let ms = |ns: u64| ns.div_ceil(MS);
    let drift = u128::from(settings.lease_ns) * u128::from(settings.drift_ppm) / 1_000_000;
    let drift = u64::try_from(drift).unwrap_or(u64::MAX);
    let rest = [
        stage("tails", FAILOVER_TAILS_MS_MAX),
        stage("promotion", TRANSACTION_MS),
        stage("apply and raise", APPLY_MS),
        stage("client's retry", CLIENT_MS),
    ];
    // The lost node may have renewed right before. What it sent last was seen a transaction later at most.
    let mut node_lost = vec![
        stage("renewal", TRANSACTION_MS),
        stage("lease", ms(settings.lease_ns.saturating_add(drift)).saturating_add(FAILOVER_MARGIN_MS)),
    ];
    node_lost.extend(rest);
    let mut store_stalled = vec![
        stage("store stall", ms(settings.store_stall_ns)),
        stage("notice", LOOK_MS),
        stage("giving the lease back", TRANSACTION_MS),
    ];
    store_stalled.extend(rest);
    Stages { node_lost, store_stalled }
}

/// Whether the settings fit together, and into the declared recovery time (0 = none is declared).
///
/// # Errors
///
/// What does not fit, with all stages.
pub fn check(settings: &Settings, rto_ns: u64) -> Result<Stages, String> {
    if settings.renew_ns == 0 || settings.renew_ns > settings.lease_ns / 3 {
        return Err(format!(
            "`failover.renew_ms` = {} is more than a third of `failover.lease_ms` = {}: two renewals must be able to fail",
            settings.renew_ns / MS,
            settings.lease_ns / MS
        ));
    }
    let stages = stages(settings);
    let rto_ms = rto_ns / MS;
    let problem = |what: &str, which: &[Stage]| {
        (rto_ms > 0 && sum(which) > rto_ms).then(|| format!("after {what}: {}", listed(which)))
    };
    let problems: Vec<String> =
        [problem("the loss of a node", &stages.node_lost), problem("a stall of a store", &stages.store_stalled)]
            .into_iter()
            .flatten()
            .collect();
    if problems.is_empty() {
        return Ok(stages);
    }
    Err(format!("`failover.rto_ms` = {rto_ms} cannot be kept: {}", problems.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::*;

    #[test]
    fn a_budget_that_does_not_fit_names_its_stages() {
        let settings = settings(1);
        let stages = check(&settings, 0).expect("nothing declared");
        let total = stages.ms_max();
        assert_eq!(total, 3_450, "{stages:?}");
        assert_eq!(check(&settings, total * MS).expect("fits exactly"), stages);
        let why = check(&settings, (total - 1) * MS).expect_err("too short");
        assert!(why.contains("store stall 2000 ms") && !why.contains("lease 1535"), "{why}");
        let why = check(&settings, 1_000 * MS).expect_err("too short");
        assert!(why.contains("lease 1535 ms") && why.contains("= 3450 ms"), "{why}");
    }

    #[test]
    fn renewals_are_at_least_three_to_a_lease() {
        let mut settings = settings(1);
        settings.renew_ns = settings.lease_ns / 3;
        assert!(check(&settings, 0).is_ok());
        settings.renew_ns += 1;
        assert!(check(&settings, 0).expect_err("too rare").contains("renew_ms"));
    }
}
