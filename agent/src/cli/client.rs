//! A small HTTP client for the admin socket: one request on one connection, blocking.
//!
//! Owns: writing a request, reading the answer, and telling "no agent" from "the agent refuses". What can hurt: an
//! agent that hangs; every read has a timeout. An answer is bounded. Refuses: everything that the agent's own server
//! does not send (chunked bodies, redirects).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Failure;
use crate::control::model::ErrorBody;

/// Largest answer, in bytes: the state of a million accounts. A larger one is an error.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// Longest silence of the agent. `verify` of many accounts takes its time, and says nothing until it is done.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// A running agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the agent on this socket; nothing is opened yet.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// `GET` of a path such as `/v1/status`.
    ///
    /// # Errors
    ///
    /// No agent answers, it refuses, or its answer cannot be read.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.request("GET", path, &[])
    }

    /// `POST` of a JSON body.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::Other(format!("cannot be JSON: {error}")))?;
        self.request("POST", path, &body)
    }

    fn request<T: DeserializeOwned>(&self, method: &str, path: &str, body: &[u8]) -> Result<T, Failure> {
        let answer = self
            .exchange(method, path, body)
            .map_err(|source| Failure::Unreachable { socket: self.socket.clone(), source })?;
        let (code, body) =
            split(&answer).map_err(|why| Failure::Other(format!("the agent's answer to {method} {path} is {why}")))?;
        if !(200..300).contains(&code) {
            let said = serde_json::from_slice::<ErrorBody>(body)
                .map_or_else(|_| String::from_utf8_lossy(body).chars().take(500).collect(), |refused| refused.error);
            return Err(Failure::Agent(format!("{said} (status {code})")));
        }
        serde_json::from_slice(body).map_err(|error| {
            Failure::Other(format!("the agent's answer to {method} {path} is not understood: {error}; are command and agent of one version?"))
        })
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: understudy\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // An agent that refuses early closes before it has read everything; its answer is there all the same.
        let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        let mut answer = Vec::new();
        let read = stream.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer);
        match (written, read) {
            _ if answer.len() as u64 > ANSWER_BYTES_MAX => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too large"))
            }
            // Whether it is whole is `split`'s to say.
            _ if !answer.is_empty() => Ok(answer),
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(_)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer")),
        }
    }
}

/// Status and body of a whole answer.
fn split(answer: &[u8]) -> Result<(u16, &[u8]), &'static str> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("cut short")?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| "no HTTP")?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let code = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or("no HTTP")?;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Err("no HTTP") };
        if name.eq_ignore_ascii_case("content-length") && value.trim().parse() != Ok(body.len()) {
            return Err("cut short");
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("in a form that is not expected");
        }
    }
    Ok((code, body))
}

/// A text as part of a query: everything but letters, digits and `-._~` as `%XX`.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_or_refused() {
        assert_eq!(split(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Ok((200, b"{}".as_slice())));
        assert_eq!(split(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}"), Err("cut short"));
        assert!(split(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n").is_err());
        for junk in [
            b"".as_slice(),
            b"\r\n\r\n",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 2x0 OK\r\n\r\n",
            b"\xff\xff\r\n\r\n",
        ] {
            assert!(split(junk).is_err());
        }
    }

    #[test]
    fn accounts_are_quoted() {
        assert_eq!(quote("a+b@x.test/ü"), "a%2Bb%40x.test%2F%C3%BC");
    }
}
