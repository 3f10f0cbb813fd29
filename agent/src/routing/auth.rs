//! nginx's `auth_http`: a login's headers in, the store to go to out.
//!
//! Owns: the headers of both directions. What can hurt: hostile names; they were escaped by nginx and are checked here.
//! Refuses: passwords. nginx passes the user's own on to the store, which checks it; this never reads `Auth-Pass`.

use std::net::SocketAddr;

use axum::http::{HeaderMap, HeaderValue};

use super::name::{NameError, Names, unescape};
use crate::config::address::Service;
use crate::limits::{ROUTING_LOGIN_ATTEMPTS_MAX, ROUTING_LOGIN_WAIT_S, ROUTING_NAME_BYTES_MAX};

/// Why a login is not sent to a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AuthError {
    #[error("there is no header `{0}`")]
    Missing(&'static str),
    #[error("header `Auth-User` has {0} bytes, more than {ROUTING_NAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("`Auth-Protocol` is none of imap, pop3, smtp")]
    Protocol,
    #[error("`Auth-User`: {0}")]
    Name(#[from] NameError),
    /// Comes again later.
    #[error("{0}")]
    Later(String),
}

/// A login as nginx tells it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Login {
    pub account: String,
    pub service: Service,
}

/// Reads a request.
pub(super) fn parse(headers: &HeaderMap, names: &Names) -> Result<Login, AuthError> {
    let protocol = headers.get("auth-protocol").ok_or(AuthError::Missing("Auth-Protocol"))?;
    let service = service(protocol).ok_or(AuthError::Protocol)?;
    let user = headers.get("auth-user").ok_or(AuthError::Missing("Auth-User"))?.as_bytes();
    if user.len() > ROUTING_NAME_BYTES_MAX {
        return Err(AuthError::TooLong(user.len()));
    }
    Ok(Login { account: names.login(&unescape(user)?)?, service })
}

fn service(protocol: &HeaderValue) -> Option<Service> {
    match protocol.as_bytes() {
        b"imap" => Some(Service::Imap),
        b"pop3" => Some(Service::Pop3),
        b"smtp" => Some(Service::Submission),
        _ => None,
    }
}

/// Sends the login to a store.
pub(super) fn accept(address: SocketAddr) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("auth-status", HeaderValue::from_static("OK"));
    put(&mut headers, "auth-server", &address.ip().to_string());
    put(&mut headers, "auth-port", &address.port().to_string());
    headers
}

/// Refuses the login in words and codes of the client's own protocol. The client hears nothing of the cause: it is the
/// administrator's, in the log.
pub(super) fn refuse(request: &HeaderMap, error: &AuthError) -> HeaderMap {
    let is_later = matches!(error, AuthError::Later(_));
    let service = request.get("auth-protocol").and_then(service);
    let status = match (service, is_later) {
        // RFC 5530 and RFC 3206.
        (Some(Service::Imap), true) => "[UNAVAILABLE] The mailbox cannot be reached now, try again",
        (Some(Service::Imap), false) => "[AUTHENTICATIONFAILED] Invalid login or password",
        (Some(Service::Pop3), true) => "[SYS/TEMP] The mailbox cannot be reached now, try again",
        (Some(Service::Pop3), false) => "[AUTH] Invalid login or password",
        (_, true) => "The mailbox cannot be reached now, try again",
        (_, false) => "Invalid login or password",
    };
    let mut headers = HeaderMap::new();
    headers.insert("auth-status", HeaderValue::from_static(status));
    let attempt: u32 =
        request.get("auth-login-attempt").and_then(|n| n.to_str().ok()?.parse().ok()).unwrap_or_default();
    // Without it nginx closes the connection.
    if attempt < ROUTING_LOGIN_ATTEMPTS_MAX {
        put(&mut headers, "auth-wait", &ROUTING_LOGIN_WAIT_S.to_string());
    }
    if service.is_none_or(|service| service == Service::Submission) {
        // RFC 4954.
        let code = if is_later { "454 4.7.0" } else { "535 5.7.8" };
        headers.insert("auth-error-code", HeaderValue::from_static(code));
    }
    headers
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(rows: &[(&'static str, &[u8])]) -> HeaderMap {
        rows.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap())).collect()
    }

    fn parsed(protocol: &[u8], user: &[u8]) -> Result<Login, AuthError> {
        parse(&headers(&[("auth-protocol", protocol), ("auth-user", user)]), &Names::new(&[], "+"))
    }

    #[test]
    fn a_login_is_read_and_hostile_ones_are_named() {
        let login = Login { account: "u ü@x".into(), service: Service::Pop3 };
        assert_eq!(parsed(b"pop3", b"U%20%C3%BC@x").unwrap(), login);
        assert_eq!(parsed(b"smtp", b"u@x").unwrap().service, Service::Submission);
        assert_eq!(parsed(b"IMAP", b"u@x"), Err(AuthError::Protocol));
        assert_eq!(parsed(b"imap", b"u%"), Err(AuthError::Name(NameError::Escape(1))));
        assert_eq!(parsed(b"imap", b"u%0d%0ax"), Err(AuthError::Name(NameError::Control(1))));
        assert_eq!(parsed(b"imap", b"%ff"), Err(AuthError::Name(NameError::NotUtf8(0))));
        let long = vec![b'u'; ROUTING_NAME_BYTES_MAX + 1];
        assert_eq!(parsed(b"imap", &long), Err(AuthError::TooLong(long.len())));
        let names = Names::default();
        assert_eq!(parse(&HeaderMap::new(), &names), Err(AuthError::Missing("Auth-Protocol")));
        assert_eq!(parse(&headers(&[("auth-protocol", b"imap")]), &names), Err(AuthError::Missing("Auth-User")));
    }

    #[test]
    fn answers_are_what_nginx_reads() {
        let told = accept("[fd00::1]:143".parse().unwrap());
        assert_eq!((&told["auth-server"], &told["auth-port"]), (&"fd00::1".parse().unwrap(), &"143".parse().unwrap()));
        let smtp = headers(&[("auth-protocol", b"smtp"), ("auth-login-attempt", b"1")]);
        let told = refuse(&smtp, &AuthError::Later("x".into()));
        assert_eq!((told["auth-error-code"].as_bytes(), told.contains_key("auth-wait")), (&b"454 4.7.0"[..], true));
        assert_eq!(refuse(&smtp, &AuthError::Protocol)["auth-error-code"].as_bytes(), b"535 5.7.8");
        let tired = headers(&[("auth-protocol", b"imap"), ("auth-login-attempt", b"10")]);
        let told = refuse(&tired, &AuthError::Name(NameError::Foreign));
        assert!(!told.contains_key("auth-wait") && !told.contains_key("auth-error-code"));
        assert!(told["auth-status"].to_str().unwrap().starts_with("[AUTHENTICATIONFAILED]"));
    }
}
