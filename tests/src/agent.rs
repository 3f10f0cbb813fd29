//! Asking a node's agent over its admin socket, as `understudy status` and `understudy verify` do.
//!
//! Owns: one request on one connection. What can hurt: an agent that does not answer; every read has a time-out, and
//! nobody there is an error that the caller may wait out. Refuses: knowing the types; tests read JSON as users do.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Comparing an account waits for its replica to come that far.
const ANSWER_WAIT: Duration = Duration::from_secs(180);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The agent's status with all accounts.
///
/// # Errors
/// When nobody answers, or not with JSON.
pub fn status(socket: &Path) -> Result<Value> {
    request(socket, "GET", "/v1/status?accounts=true", "")
}

/// Compares one account with its replicas; one result each.
///
/// # Errors
/// When nobody answers, or not with JSON.
pub fn verify(socket: &Path, account: &str) -> Result<Value> {
    request(socket, "POST", "/v1/verify", &json!({ "accounts": [account] }).to_string())
}

/// What `status` says of one account; null when the agent does not know it.
///
/// # Errors
/// As [`status`].
pub fn account(socket: &Path, name: &str) -> Result<Value> {
    let status = status(socket)?;
    let accounts = status["accounts"].as_array().context("no accounts in the status")?;
    Ok(accounts.iter().find(|account| account["name"] == name).cloned().unwrap_or(Value::Null))
}

fn request(socket: &Path, method: &str, path: &str, body: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("no agent at `{}`", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: understudy\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    ensure!(head.lines().next().is_some_and(|line| line.contains(" 200 ")), "{path}: {head}: {body}");
    serde_json::from_str(body).with_context(|| format!("{path}: no JSON: {body}"))
}
