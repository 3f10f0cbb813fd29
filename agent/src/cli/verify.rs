//! `understudy verify`: equal, or the first difference, for accounts and their replicas.
//!
//! Owns: the exit code: 0 only when every account was compared and is equal. Refuses: comparing; the agents do.

use super::{Context, Exit, Failure, output};
use crate::control::model::{Status, VerifyRequest, VerifyResult};

/// Flags of `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Accounts to compare
    #[arg(value_name = "ACCOUNT", required_unless_present = "all")]
    pub accounts: Vec<String>,
    /// Compare all accounts for which this node is active
    #[arg(long, conflicts_with = "accounts")]
    pub all: bool,
}

/// Has the agent compare, and prints.
///
/// # Errors
///
/// No agent answers, or it refuses.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    let accounts = if args.all {
        let status: Status = client.get("/v1/status?accounts=true")?;
        let active = status.accounts.into_iter().filter(|account| account.role == crate::control::model::Role::Active);
        active.map(|account| account.name).collect()
    } else {
        args.accounts.clone()
    };
    let results: Vec<VerifyResult> = client.post("/v1/verify", &VerifyRequest { accounts: accounts.clone() })?;
    if context.global.json {
        context.print_json(&results)?;
    } else {
        output::text(&render(&results))?;
    }
    let answered = |account: &String| results.iter().any(|result| result.account == *account);
    let good = results.iter().all(|result| result.equal && result.error.is_none()) && accounts.iter().all(answered);
    Ok(if good { Exit::Fine } else { Exit::Bad })
}

fn render(results: &[VerifyResult]) -> String {
    let rows: Vec<_> = results
        .iter()
        .map(|result| {
            let verdict = match (&result.error, result.equal) {
                (Some(error), _) => format!("not compared: {error}"),
                (None, true) => "equal".to_owned(),
                (None, false) => {
                    format!("DIFFERS: {}", result.first_difference.as_deref().unwrap_or("the digests differ"))
                }
            };
            let digest: String = result.digest.chars().take(16).collect();
            vec![result.account.clone(), result.replica.clone(), result.position.to_string(), digest, verdict]
        })
        .collect();
    output::table(&["ACCOUNT", "REPLICA", "POSITION", "DIGEST", "RESULT"], &rows)
}
