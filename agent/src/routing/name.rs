//! From what a proxy says to the name of an account.
//!
//! Owns: nginx's escapes, extensions of recipients, the case of names, and which domains are ours. Pure. What can
//! hurt: any byte; a name that is no name is a typed error. Refuses: knowing which accounts exist: that would tell a
//! stranger, and the store says it anyway.

use understudy_types::op::ACCOUNT_BYTES_MAX;

/// Why a name is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name is empty")]
    Empty,
    #[error("a name of {0} bytes is longer than {ACCOUNT_BYTES_MAX}")]
    TooLong(usize),
    #[error("the escape at byte {0} is no `%` with two hexadecimal digits")]
    Escape(usize),
    #[error("a name is not UTF-8, from byte {0} on")]
    NotUtf8(usize),
    #[error("a name has a control character at byte {0}")]
    Control(usize),
    #[error("the domain is not one of `routing.domains`")]
    Foreign,
    #[error("a recipient has no `@`")]
    NoAddress,
}

/// What the configuration says of names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// In lower case. Empty: all.
    domains: Vec<String>,
    delimiters: String,
}

impl Names {
    /// With the values of `routing.domains` and `routing.recipient_delimiter`.
    #[must_use]
    pub fn new(domains: &[String], delimiters: &str) -> Self {
        Self {
            domains: domains.iter().map(|domain| domain.to_ascii_lowercase()).collect(),
            delimiters: delimiters.to_owned(),
        }
    }

    /// The account of a login name.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn login(&self, name: &[u8]) -> Result<String, NameError> {
        let name = checked(name)?;
        self.ours(&name)?;
        Ok(name)
    }

    /// The account of a recipient: its address without the extension.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn recipient(&self, address: &[u8]) -> Result<String, NameError> {
        let address = checked(address)?;
        self.ours(&address)?;
        let (local, domain) = address.rsplit_once('@').ok_or(NameError::NoAddress)?;
        if local.is_empty() || domain.is_empty() {
            return Err(NameError::NoAddress);
        }
        // As in Postfix: a delimiter at the very beginning begins no extension.
        let extension = local.char_indices().skip(1).find(|(_, c)| self.delimiters.contains(*c));
        Ok(match extension {
            Some((at, _)) => format!("{}@{domain}", &local[..at]),
            None => address,
        })
    }

    fn ours(&self, name: &str) -> Result<(), NameError> {
        let domain = name.rsplit_once('@').map_or("", |(_, domain)| domain);
        let ours = self.domains.is_empty() || self.domains.iter().any(|known| known == domain);
        if ours { Ok(()) } else { Err(NameError::Foreign) }
    }
}

/// Checks a name and lowers its case: Dovecot does so too (`auth_username_format` is `%Lu` unless somebody changes it).
fn checked(name: &[u8]) -> Result<String, NameError> {
    if name.len() > ACCOUNT_BYTES_MAX {
        return Err(NameError::TooLong(name.len()));
    }
    let text = std::str::from_utf8(name).map_err(|error| NameError::NotUtf8(error.valid_up_to()))?;
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        return Err(NameError::Control(at));
    }
    Ok(text.to_ascii_lowercase())
}

/// Takes back what nginx did to a name before it put it into a header: `%XX` for every byte that could not stand there.
///
/// # Errors
///
/// The place of an escape that is none.
pub fn unescape(text: &[u8]) -> Result<Vec<u8>, NameError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if *byte != b'%' {
            bytes.push(*byte);
            at += 1;
            continue;
        }
        let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else { return Err(NameError::Escape(at)) };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
        at += 3;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_taken_back_and_what_is_none_is_named() {
        assert_eq!(unescape(b"a%40b%25%20%C3%bc").unwrap(), "a@b% ü".as_bytes());
        for (text, at) in [("%", 0), ("a%4", 1), ("ab%zz", 2), ("%%41", 0), ("% 41", 0), ("%+1", 0)] {
            assert_eq!(unescape(text.as_bytes()), Err(NameError::Escape(at)), "{text}");
        }
    }

    #[test]
    fn login_names_are_lowered_and_others_are_refused() {
        let names = Names::new(&[], "+");
        assert_eq!(names.login(b"U1+x@Example.Test").unwrap(), "u1+x@example.test");
        assert_eq!(names.login(b"root").unwrap(), "root");
        assert_eq!(names.login(b""), Err(NameError::Empty));
        assert_eq!(names.login(b"a\0b"), Err(NameError::Control(1)));
        assert_eq!(names.login(b"a\r\nAuth-Status: OK"), Err(NameError::Control(1)));
        assert_eq!(names.login(b"a\xff"), Err(NameError::NotUtf8(1)));
        assert_eq!(names.login(&[b'a'; ACCOUNT_BYTES_MAX + 1]), Err(NameError::TooLong(ACCOUNT_BYTES_MAX + 1)));
        assert!(names.login(&[b'a'; ACCOUNT_BYTES_MAX]).is_ok());
        let names = Names::new(&["Example.TEST".into()], "");
        assert_eq!(names.login(b"a@example.test").unwrap(), "a@example.test");
        assert_eq!(names.login(b"a@example.test@evil.test"), Err(NameError::Foreign));
        assert_eq!(names.login(b"a@sub.example.test"), Err(NameError::Foreign));
        assert_eq!(names.login(b"root"), Err(NameError::Foreign));
    }

    #[test]
    fn recipients_lose_their_extension() {
        let names = Names::new(&[], "+-");
        for (given, account) in [
            ("u@x", "u@x"),
            ("u+a+b@x", "u@x"),
            ("u-a+b@x", "u@x"),
            ("+u@x", "+u@x"),
            ("ü+y@x", "ü@x"),
            ("a@b+c@x", "a@b@x"),
        ] {
            assert_eq!(names.recipient(given.as_bytes()).unwrap(), account, "{given}");
        }
        assert_eq!(Names::new(&[], "").recipient(b"u+a@x").unwrap(), "u+a@x");
        for none in ["*", "x", "@x", "u@"] {
            assert_eq!(names.recipient(none.as_bytes()), Err(NameError::NoAddress), "{none}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_name_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let names = Names::new(&[], "+");
            if let Ok(name) = unescape(&bytes).and_then(|name| names.login(&name)) {
                prop_assert!(!name.chars().any(char::is_control) && !name.is_empty());
            }
            if let Ok(account) = names.recipient(&bytes) {
                prop_assert!(account.contains('@'));
            }
        }
    }
}
