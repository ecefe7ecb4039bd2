//! A stand-in for a token server: it hands out tokens as one does, but they are random names, not signed statements.
//!
//! The proxy in front of a registry asks it whether a token may do what is asked, as a registry with token
//! authentication does.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::registry::{PASSWORD, USER};

/// An identity token that it takes instead of a password.
pub const IDENTITY_TOKEN: &str = "identity-token-of-the-tests";

/// What a token may do, and how long.
struct Token {
    scopes: Vec<String>,
    until: Instant,
}

/// Hands out tokens for [`USER`].
pub struct TokenServer {
    lifetime: Duration,
    forbidden: Vec<String>,
    tokens: Mutex<HashMap<String, Token>>,
    asked: Mutex<Vec<String>>,
}

impl TokenServer {
    /// One whose tokens last so long.
    pub fn new(lifetime: Duration) -> Self {
        Self { lifetime, forbidden: Vec::new(), tokens: Mutex::default(), asked: Mutex::default() }
    }

    /// A repository that nobody may read or write.
    #[must_use]
    pub fn forbidding(mut self, repository: &str) -> Self {
        self.forbidden.push(repository.to_owned());
        self
    }

    /// The scopes of each request for a token so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends all tokens, as a server does that is set up anew.
    pub fn revoke_all(&self) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Answers a request for a token: status and JSON.
    pub(crate) fn issue(&self, query: &str, authorization: Option<&str>, body: &str) -> (u16, String) {
        let is_identity = body.contains(&format!("refresh_token={IDENTITY_TOKEN}"))
            && body.contains("grant_type=refresh_token");
        if !is_identity && authorization != Some(&basic()) {
            return (401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong login"}]}"#.to_owned());
        }
        let parameters = if is_identity { body } else { query };
        let scopes: Vec<String> = parameters
            .split('&')
            .filter_map(|pair| pair.strip_prefix("scope="))
            .flat_map(|scope| {
                let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
                scope.split(['+', ' ']).map(str::to_owned).collect::<Vec<String>>()
            })
            .collect();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(scopes.join(" "));
        let granted =
            |scope: &String| !self.forbidden.iter().any(|name| scope.contains(&format!(":{name}:")));
        let token = Token {
            scopes: scopes.into_iter().filter(granted).collect(),
            until: Instant::now() + self.lifetime,
        };
        let name = crate::unique("token");
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), token);
        let key = if is_identity { "access_token" } else { "token" };
        (200, format!(r#"{{"{key}":"{name}","expires_in":{}}}"#, self.lifetime.as_secs()))
    }

    /// Whether a request may be done with this header.
    pub(crate) fn allows(&self, authorization: Option<&str>, scopes: &[String]) -> bool {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token =
            authorization.and_then(|text| text.strip_prefix("Bearer ")).and_then(|name| tokens.get(name));
        token.is_some_and(|token| {
            let has = |needed: &String| {
                let (name, action) = needed.rsplit_once(':').unwrap_or_default();
                token.scopes.iter().any(|scope| {
                    let (known, actions) = scope.rsplit_once(':').unwrap_or_default();
                    known == name && actions.split(',').any(|known| known == action)
                })
            };
            token.until > Instant::now() && scopes.iter().all(has)
        })
    }
}

/// The scopes, of one action each, that a request needs.
pub(crate) fn needed(method: &str, path: &str, query: &str) -> Vec<String> {
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    let end = ["/manifests/", "/blobs/", "/tags/"].iter().filter_map(|part| rest.find(part)).min();
    let Some(repository) = end.map(|end| &rest[..end]) else { return Vec::new() };
    let action = match method {
        "GET" | "HEAD" if !path.contains("/blobs/uploads/") => "pull",
        "DELETE" if !path.contains("/blobs/uploads/") => "delete",
        _ => "push",
    };
    let mut scopes = vec![format!("repository:{repository}:{action}")];
    if let Some(from) = query.split('&').find_map(|pair| pair.strip_prefix("from=")) {
        scopes.push(format!("repository:{}:pull", from.replace("%2F", "/")));
    }
    scopes
}

fn basic() -> String {
    // The base64 of USER:PASSWORD.
    debug_assert_eq!((USER, PASSWORD), ("tester", "secret"));
    "Basic dGVzdGVyOnNlY3JldA==".to_owned()
}
