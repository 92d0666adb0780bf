//! Who is signed in: a name in a cookie. There are no passwords, for there is nothing to protect.

use http::header::{COOKIE, HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

/// The name of a user: 1 to 64 characters, none of them a control character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User(String);

/// Why a name can't be a user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum UserError {
    #[error("a name has between 1 and {NAME_CHARS_MAX} characters")]
    Length,
    #[error("a name has no control characters")]
    ControlCharacter,
}

impl User {
    /// The user called `name`; spaces around it don't count.
    pub(super) fn new(name: &str) -> Result<Self, UserError> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
            return Err(UserError::Length);
        }
        if name.chars().any(char::is_control) {
            return Err(UserError::ControlCharacter);
        }
        Ok(Self(name.to_owned()))
    }

    /// The user whose cookie came with a request. A cookie that is no user's counts as none.
    pub(super) fn signed_in(headers: &HeaderMap) -> Option<Self> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|header| header.to_str().ok());
        let mut pairs = cookies.flat_map(|header| header.split(';')).map(str::trim);
        let encoded = pairs.find_map(|pair| pair.strip_prefix("user="))?;
        Self::new(&percent_decode_str(encoded).decode_utf8().ok()?).ok()
    }

    /// The name.
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// The `Set-Cookie` header that signs this user in, until the browser is closed.
    pub(super) fn cookie(&self) -> String {
        format!("user={}; Path=/; HttpOnly; SameSite=Lax", self.encoded())
    }

    /// The name for the `end-user` header: percent-encoded as in the cookie, for a header holds no `é`.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.encoded().try_into().ok()
    }

    fn encoded(&self) -> String {
        utf8_percent_encode(&self.0, ENCODED).to_string()
    }
}

/// The `Set-Cookie` header that signs everyone out.
pub(super) const NO_COOKIE: &str = "user=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0";

const NAME_CHARS_MAX: usize = 64;

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    fn signed_in(cookie: &str) -> Option<String> {
        let headers = [(COOKIE, cookie.parse().unwrap())].into_iter().collect();
        User::signed_in(&headers).map(|user| user.name().to_owned())
    }

    #[test]
    fn a_cookie_gives_back_the_name() {
        for name in ["jason", "Anna Lee", "<script>", "a;b=c", "Ðóra", &"n".repeat(NAME_CHARS_MAX)] {
            let user = User::new(name).unwrap();
            let cookie = user.cookie();
            assert_eq!(signed_in(cookie.split(';').next().unwrap()).as_deref(), Some(name));
        }
        assert_eq!(User::new("jason").unwrap().header().unwrap(), "jason");
        assert_eq!(User::new("Anna Lee").unwrap().header().unwrap(), "Anna%20Lee");
    }

    #[test]
    fn a_cookie_that_is_no_users_counts_as_none() {
        let table = [
            ("user=jason", Some("jason")),
            ("theme=dark; user=jason; lang=en", Some("jason")),
            ("user=", None),
            ("superuser=jason", None),
            ("user=%ff", None),
            ("user=a%0ab", None),
        ];
        for (cookie, expected) in table {
            assert_eq!(signed_in(cookie).as_deref(), expected, "{cookie}");
        }
    }

    #[test]
    fn names_have_limits() {
        assert_eq!(User::new("  "), Err(UserError::Length));
        assert_eq!(User::new(&"é".repeat(NAME_CHARS_MAX + 1)), Err(UserError::Length));
        assert_eq!(User::new("a\r\nb"), Err(UserError::ControlCharacter));
        assert_eq!(User::new(" jason "), User::new("jason"));
    }
}
