//! Postfix's socketmap protocol: a netstring with a map and a key in, a netstring with the answer out.
//!
//! Owns: the netstrings of both directions and the map `transport`. Pure. What can hurt: any byte; a length is judged
//! before anything is waited for, and a request that is none ends the connection. Refuses: maps that it does not have.

use std::net::SocketAddr;

use super::name::{NameError, Names};
use crate::limits::SOCKETMAP_REQUEST_BYTES_MAX;

/// The map that this has.
pub const MAP: &str = "transport";
/// Digits of the longest length that is taken.
const LENGTH_DIGITS_MAX: usize = 6;

const _: () = assert!(SOCKETMAP_REQUEST_BYTES_MAX < 1_000_000, "a length has at most six digits");

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetstringError {
    #[error("byte {0} is no digit of a length")]
    Length(usize),
    #[error("a length begins with 0")]
    LeadingZero,
    #[error("a request of {0} bytes is longer than {SOCKETMAP_REQUEST_BYTES_MAX}")]
    TooLong(usize),
    #[error("no comma after {0} bytes")]
    NoComma(usize),
}

/// Why a request has no answer in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("there is no map of this name, only `{MAP}`")]
    NoMap,
    #[error("{0}")]
    Name(#[from] NameError),
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Delivered to the store at this address.
    Lmtp(SocketAddr),
    /// Not one of ours: Postfix goes on with its other tables and its default.
    NotFound,
    /// Tried again later, and why.
    Later(String),
    /// Never answered, and why.
    Never(String),
}

/// One request at the beginning of `buffer`: its content and how many bytes it took. `None`: more bytes are needed.
///
/// # Errors
///
/// Why no further bytes can make a request of it.
pub fn take(buffer: &[u8]) -> Result<Option<(&[u8], usize)>, NetstringError> {
    let digits = buffer.iter().take_while(|byte| byte.is_ascii_digit()).take(LENGTH_DIGITS_MAX + 1).count();
    let length = buffer[..digits].iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    if digits > 1 && buffer[0] == b'0' {
        return Err(NetstringError::LeadingZero);
    }
    if length > SOCKETMAP_REQUEST_BYTES_MAX || digits > LENGTH_DIGITS_MAX {
        return Err(NetstringError::TooLong(length));
    }
    match buffer.get(digits) {
        None => return Ok(None),
        Some(b':') if digits > 0 => {}
        Some(_) => return Err(NetstringError::Length(digits)),
    }
    let (begin, end) = (digits + 1, digits + 1 + length);
    match buffer.get(end) {
        None => Ok(None),
        Some(b',') => Ok(Some((&buffer[begin..end], end + 1))),
        Some(_) => Err(NetstringError::NoComma(length)),
    }
}

/// The account that a request asks for.
///
/// # Errors
///
/// Why it asks for none.
pub fn account(request: &[u8], names: &Names) -> Result<String, RequestError> {
    let blank = request.iter().position(|byte| *byte == b' ').ok_or(RequestError::NoMap)?;
    if &request[..blank] != MAP.as_bytes() {
        return Err(RequestError::NoMap);
    }
    Ok(names.recipient(&request[blank + 1..])?)
}

impl Reply {
    /// The answer to a request that asks for no account of ours.
    #[must_use]
    pub fn refusal(error: RequestError) -> Self {
        match error {
            RequestError::NoMap => Self::Never(error.to_string()),
            RequestError::Name(_) => Self::NotFound,
        }
    }

    /// As a netstring.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = match self {
            Self::Lmtp(address) => format!("OK lmtp:inet:[{}]:{}", address.ip(), address.port()),
            Self::NotFound => "NOTFOUND ".to_owned(),
            Self::Later(why) => format!("TEMP {why}"),
            Self::Never(why) => format!("PERM {why}"),
        };
        format!("{}:{text},", text.len()).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_taken_when_it_is_whole() {
        let whole = b"13:transport u@x,5:rest";
        for cut in 0..17 {
            assert_eq!(take(&whole[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(take(whole), Ok(Some((&b"transport u@x"[..], 17))));
        assert_eq!(take(b"0:,"), Ok(Some((&b""[..], 3))));
    }

    #[test]
    fn hostile_lengths_are_refused_before_anything_is_waited_for() {
        for (bytes, error) in [
            (&b"x"[..], NetstringError::Length(0)),
            (b":", NetstringError::Length(0)),
            (b"-1:x,", NetstringError::Length(0)),
            (b"1 :x,", NetstringError::Length(1)),
            (b"01:x,", NetstringError::LeadingZero),
            (b"3:abcd", NetstringError::NoComma(3)),
            (b"99999", NetstringError::TooLong(99_999)),
            (b"GET /auth HTTP/1.0\r\n", NetstringError::Length(0)),
        ] {
            assert_eq!(take(bytes), Err(error), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(matches!(take(&[b'9'; 4096]), Err(NetstringError::TooLong(_))));
        assert!(matches!(take(b"0000000000"), Err(NetstringError::LeadingZero)));
    }

    #[test]
    fn only_the_one_map_is_there() {
        let names = Names::new(&["x".into()], "+");
        assert_eq!(account(b"transport U+a@X", &names).unwrap(), "u@x");
        for none in [&b"transport"[..], b"", b" u@x", b"Transport u@x", b"virtual u@x"] {
            assert_eq!(account(none, &names), Err(RequestError::NoMap), "{}", String::from_utf8_lossy(none));
        }
        for (key, reply) in [(&b"transport u@y"[..], Reply::NotFound), (b"transport *", Reply::NotFound)] {
            assert_eq!(Reply::refusal(account(key, &names).unwrap_err()), reply);
        }
        assert_eq!(account(b"transport u\0@x", &names), Err(RequestError::Name(NameError::Control(1))));
    }

    #[test]
    fn answers_are_netstrings() {
        assert_eq!(Reply::Lmtp("10.0.0.1:24".parse().unwrap()).encode(), b"26:OK lmtp:inet:[10.0.0.1]:24,");
        assert_eq!(Reply::Lmtp("[fd00::1]:24".parse().unwrap()).encode(), b"25:OK lmtp:inet:[fd00::1]:24,");
        assert_eq!(Reply::NotFound.encode(), b"9:NOTFOUND ,");
        assert_eq!(Reply::Later("gone".into()).encode(), b"9:TEMP gone,");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_request_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((content, taken))) = take(&bytes) {
                prop_assert!(taken <= bytes.len() && content.len() < taken);
                let _ = account(content, &Names::default());
            }
        }
    }
}
