//! The agent's two doors for people and programs: the admin socket and the metrics page.
//!
//! Owns: `/v1/…` over HTTP on a UNIX socket, `/metrics` and `/healthz` over TCP, and the thread that serves both.
//! What can hurt: a client that sends too much or waits for ever; bodies, account lists and the number of slow
//! requests at one time are bounded. Refuses: knowing how the node works; [`Admin`] is all that it sees of it.

pub mod model;
pub mod orders;
pub mod resolve;
mod server;
mod socket;
pub mod systemd;

pub use server::{Control, ControlError, serve};

use model::{
    Availability, Done, Explained, MergeFinding, MergeRow, OrderRequest, Placement, RuleRow, Status, Target,
    VerifyResult,
};
use orders::{
    HoldDone, HoldRequest, HoldRow, PauseDone, PauseRequest, PauseRow, QuarantineRequest, QuarantineRow, ResumeRequest,
    UndoReport,
};

/// Largest request body, in bytes. A larger one is refused with 413.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Most accounts in one request. More are refused with 400.
pub const REQUEST_ACCOUNTS_MAX: usize = 50_000;
/// Requests that are answered at one time. Further ones wait for a thread.
pub const REQUESTS_AT_ONCE: usize = 8;

/// What a running node tells and does. Calls may block: they are made from threads of their own, never from the
/// node's loop.
pub trait Admin: Send + Sync {
    /// The state of the node, with or without its accounts.
    fn status(&self, with_accounts: bool) -> Status;
    /// The model of `understudy top`, as JSON.
    fn top(&self) -> serde_json::Value;
    /// Compares accounts with each of their replicas; one result for each account and replica, in order.
    fn verify(&self, accounts: &[String]) -> Vec<VerifyResult>;
    /// Starts a resync of one account.
    ///
    /// # Errors
    ///
    /// Why it cannot be started, for the administrator.
    fn resync(&self, account: &str) -> Result<Done, String>;
    /// Held operations of an account on all its nodes; of all accounts on this node and its peers when none is named.
    ///
    /// # Errors
    ///
    /// Why nobody could say.
    fn holds(&self, account: Option<&str>) -> Result<Vec<HoldRow>, String>;
    /// Applies held operations now.
    ///
    /// # Errors
    ///
    /// What is wrong with the request.
    fn hold_release(&self, request: &HoldRequest) -> Result<HoldDone, String>;
    /// Brings back what held operations would destroy.
    ///
    /// # Errors
    ///
    /// Why nothing came back.
    fn hold_undo(&self, request: &HoldRequest) -> Result<UndoReport, String>;
    /// Pauses in force.
    fn pauses(&self) -> Vec<PauseRow>;
    /// Begins a pause.
    ///
    /// # Errors
    ///
    /// What is wrong with the request, or why it cannot be kept.
    fn pause(&self, request: &PauseRequest) -> Result<PauseDone, String>;
    /// Ends a pause.
    ///
    /// # Errors
    ///
    /// There is none of this id, or it cannot be ended.
    fn resume(&self, request: &ResumeRequest) -> Result<Done, String>;
    /// Accounts that wait on this node.
    fn quarantine(&self) -> Vec<QuarantineRow>;
    /// Tries an account that waits again now.
    ///
    /// # Errors
    ///
    /// It does not wait here, or waits for something else.
    fn quarantine_retry(&self, request: &QuarantineRequest) -> Result<Done, String>;
    /// Passes over the operations of an account that waits: it gets a snapshot instead.
    ///
    /// # Errors
    ///
    /// It does not wait here.
    fn quarantine_skip(&self, request: &QuarantineRequest) -> Result<Done, String>;
    /// What the rules in force say about accounts; about all accounts that the node knows when none is named.
    fn rules(&self, accounts: &[String]) -> Vec<RuleRow>;
    /// Reads rules, lists and placement again.
    ///
    /// # Errors
    ///
    /// What is wrong with them; the old ones stay in force.
    fn reload(&self) -> Result<Done, String>;
    /// Everything that the decider of failover knows, as JSON (`failover::explain::Overview`).
    ///
    /// # Errors
    ///
    /// Nobody decides here.
    fn failover(&self) -> Result<serde_json::Value, String>;
    /// Why groups are where they are.
    ///
    /// # Errors
    ///
    /// There is no such group, account or node, or nobody decides here.
    fn explain(&self, of: &Target) -> Result<Vec<Explained>, String>;
    /// Where groups are, and where they should be with so many replicas; unset: as many as were configured.
    ///
    /// # Errors
    ///
    /// Nobody decides here.
    fn placement(&self, replicas: Option<usize>) -> Result<Placement, String>;
    /// Gives the decider an order.
    ///
    /// # Errors
    ///
    /// Why it cannot be done.
    fn order(&self, request: &OrderRequest) -> Result<Done, String>;
    /// How available nodes and groups were in the last days.
    ///
    /// # Errors
    ///
    /// Why it cannot be told.
    fn availability(&self, days: u64) -> Result<Availability, String> {
        Err(format!("nothing is known of the last {days} days"))
    }
    /// Merges of what this node had alone, newest first.
    ///
    /// # Errors
    ///
    /// Why they cannot be told.
    fn merges(&self) -> Result<Vec<MergeRow>, String> {
        Ok(Vec::new())
    }
    /// The report of one merge, by its name.
    ///
    /// # Errors
    ///
    /// There is no such merge, or its report cannot be read.
    fn merge_report(&self, name: &str) -> Result<Vec<MergeFinding>, String> {
        Err(format!("there is no merge `{name}`"))
    }
    /// Called before the metrics are printed, to set gauges that are not kept up to date all the time.
    fn refresh_metrics(&self) {}
}

#[cfg(test)]
mod tests;
