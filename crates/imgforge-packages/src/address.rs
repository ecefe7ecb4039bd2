//! Addresses of repositories, and the logins that people write into them: `https://USER:PASSWORD@HOST/PATH`.
//!
//! They are taken apart where they are read. What is left is what errors, logs and debug output show.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

/// A user and a password, as the value of a header. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Login(String);

impl Login {
    /// The value of an `Authorization` header (RFC 7617).
    pub(crate) fn basic(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// An address without slashes at its end and without the login in it, and the login.
pub(crate) fn split(address: &str) -> (String, Option<Login>) {
    let address = address.trim_end_matches('/');
    let (scheme, rest) = address.find("://").map_or(("", address), |at| address.split_at(at + 3));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let Some((login, _)) = authority.rsplit_once('@') else { return (address.to_owned(), None) };
    let plain = format!("{scheme}{}", &rest[login.len() + 1..]);
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let pair = [decoded(user), b":".to_vec(), decoded(password)].concat();
    (plain, Some(Login(format!("Basic {}", STANDARD.encode(pair)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_an_address_has_no_password() {
        for (address, plain, login) in [
            ("http://host/debian/", "http://host/debian", None),
            ("https://user:pa%40ss@host:8080/debian", "https://host:8080/debian", Some("user:pa@ss")),
            ("https://token@host", "https://host", Some("token:")),
            ("https://a:b@c@host/x@y", "https://host/x@y", Some("a:b@c")),
            ("http://host/~user@home", "http://host/~user@home", None),
            ("user:pass@host/debian", "host/debian", Some("user:pass")),
            ("https://u:100%@host", "https://host", Some("u:100%")),
        ] {
            let (found, secret) = split(address);
            assert_eq!(found, plain);
            let expected = login.map(|login| format!("Basic {}", STANDARD.encode(login)));
            assert_eq!(secret.as_ref().map(|login| login.basic().to_owned()), expected, "{address}");
            assert!(!format!("{secret:?}").contains("Basic"));
        }
    }
}
