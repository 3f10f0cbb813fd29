//! Who is active, and by what right, as metrics.
//!
//! Owns: the families of lease, roles, promotions and the coordinator. Refuses: a series for each group; groups are
//! counted, and `understudy status --json` names them.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{Book, FloatGauge, Outcome, State, seconds_histogram};

/// Lease, roles, promotions, coordinator.
pub struct Failover {
    pub lease_held: Gauge,
    pub lease_left: FloatGauge,
    pub group_role: Family<State, Gauge>,
    pub promotions: Counter,
    pub switchovers: Counter,
    pub fenced: Counter,
    pub fence_hooks: Family<Outcome, Counter>,
    pub watchdog_armed: Gauge,
    pub coordinator_up: Gauge,
    pub coordinator_lost: Counter,
    pub coordinator_request: Histogram,
    pub coordinator_timeout: FloatGauge,
}

impl Failover {
    pub(super) fn register(book: &mut Book) -> Self {
        Self {
            lease_held: book.plain("lease_held", "1 while this node holds its lease", Gauge::default()),
            lease_left: book.seconds("lease_left", "For how long the lease of this node still holds", Gauge::default()),
            group_role: book.plain(
                "group_role",
                "Groups by what this node is for them just now (`status` names them)",
                Family::default(),
            ),
            promotions: book.plain(
                "promotions",
                "Groups that this node took over from one that was lost, or by force",
                Counter::default(),
            ),
            switchovers: book.plain(
                "switchovers",
                "Groups that were moved to this node as planned",
                Counter::default(),
            ),
            fenced: book.plain(
                "fences",
                "Times that a group which was served here was fenced, planned moves not counted",
                Counter::default(),
            ),
            fence_hooks: book.plain("fence_hook_runs", "Runs of the fence hook, by outcome", Family::default()),
            watchdog_armed: book.plain(
                "watchdog_armed",
                "1 while the watchdog device resets this host if the agent stops",
                Gauge::default(),
            ),
            coordinator_up: book.plain("coordinator_up", "1 while the coordinator is heard", Gauge::default()),
            coordinator_lost: book.plain("coordinator_lost", "Times that the coordinator was lost", Counter::default()),
            coordinator_request: book.seconds(
                "coordinator_request",
                "From sending a transaction to the coordinator to its answer",
                seconds_histogram(),
            ),
            coordinator_timeout: book.seconds(
                "coordinator_timeout",
                "Time-out of a request to the coordinator, made of its measured round trips",
                Gauge::default(),
            ),
        }
    }
}
