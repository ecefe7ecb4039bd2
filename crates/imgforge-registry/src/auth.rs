//! Logins: Basic, and tokens of a token server, kept for each scope until they end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use imgforge_http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use imgforge_http::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::Failure;
use crate::challenge::{self, Challenge};
use crate::credentials::{Credentials, Found, Secret};
use crate::error::{Error, clean};
use crate::http::Http;
use crate::insecure;

/// How long a token lasts that does not say it (token specification, "Token Response Fields", `expires_in`).
const LIFETIME: u64 = 60;
/// The longest answer of a token server, in bytes.
const ANSWER: u64 = 1 << 20;

/// What may be done where: `repository:NAME:pull,push` (distribution's "Token Scope Documentation").
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope(Vec<String>);

impl Scope {
    pub(crate) fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    pub(crate) fn delete(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:delete,pull")])
    }

    /// A mount reads from one repository and writes to another.
    pub(crate) fn mount(repository: &str, from: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push"), format!("repository:{from}:pull")])
    }
}

impl Scope {
    /// The repository that it is about first of all.
    pub(crate) fn repository(&self) -> &str {
        self.0.first().and_then(|scope| scope.split(':').nth(1)).unwrap_or_default()
    }
}

/// Whoever is logged in at one registry.
pub(crate) struct Auth {
    host: String,
    credentials: Credentials,
    found: OnceCell<Arc<Found>>,
    state: Mutex<State>,
    /// Taken while a token is fetched, so that many tasks that need it ask once.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// What the registry asked for last: then no request has to be refused first.
    way: Option<Challenge>,
    tokens: HashMap<Scope, Token>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    until: Option<Instant>,
}

impl Auth {
    pub(crate) fn new(host: &str, credentials: Credentials) -> Self {
        Self {
            host: host.to_owned(),
            credentials,
            found: OnceCell::new(),
            state: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// The `Authorization` header for a request; `None` as long as the registry has not asked for one.
    pub(crate) async fn header(&self, http: &Http, scope: &Scope) -> Result<Option<HeaderValue>, Failure> {
        let way = self.state().way.clone();
        match way {
            Some(way) => self.header_by(http, scope, &way).await.map(Some),
            None => Ok(None),
        }
    }

    /// The registry has answered 401 to a request with `used`: a new header, by the way that it asks for.
    pub(crate) async fn refresh(
        &self,
        http: &Http,
        scope: &Scope,
        used: Option<&HeaderValue>,
        answer: &HeaderMap,
    ) -> Result<Option<HeaderValue>, Failure> {
        let offered = answer.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let offered: Vec<Challenge> = offered.flat_map(challenge::parse).collect();
        let find = |scheme: &str| offered.iter().find(|challenge| challenge.scheme == scheme).cloned();
        let Some(way) = find("bearer").or_else(|| find("basic")) else { return Ok(None) };
        {
            let mut state = self.state();
            if state.tokens.get(scope).is_some_and(|token| Some(&token.header) == used) {
                state.tokens.remove(scope);
            }
            state.way = Some(way.without("scope"));
        }
        let header = self.header_by(http, scope, &way).await?;
        // A password that was refused is refused again.
        Ok((Some(&header) != used).then_some(header))
    }

    /// In words, where credentials came from.
    pub(crate) fn tried(&self) -> String {
        self.found.get().map_or_else(|| "no credentials".to_owned(), |found| found.source.clone())
    }

    async fn header_by(&self, http: &Http, scope: &Scope, way: &Challenge) -> Result<HeaderValue, Failure> {
        if let Some(header) = self.cached(scope) {
            return Ok(header);
        }
        let _only_one = self.fetching.lock().await;
        if let Some(header) = self.cached(scope) {
            return Ok(header);
        }
        let found = self.find(http).await?;
        let (text, until) = match (way.scheme.as_str(), &found.secret) {
            (_, Some(Secret::Bearer(token))) => (format!("Bearer {token}"), None),
            ("basic", secret) => match secret.as_ref().and_then(Secret::basic) {
                Some(basic) => (basic, None),
                None => return Err(self.refused(scope, "it asks for a login").into()),
            },
            _ => {
                let token = self.fetch(http, scope, way, &found).await?;
                (format!("Bearer {}", token.0), Some(token.1))
            }
        };
        let Ok(mut header) = HeaderValue::from_str(&text) else {
            let reason = "they have characters that no header can have".to_owned();
            return Err(Error::Credentials { registry: self.host.clone(), reason }.into());
        };
        header.set_sensitive(true);
        self.state().tokens.insert(scope.clone(), Token { header: header.clone(), until });
        Ok(header)
    }

    fn cached(&self, scope: &Scope) -> Option<HeaderValue> {
        let state = self.state();
        let token = state.tokens.get(scope)?;
        token.until.is_none_or(|until| until > Instant::now()).then(|| token.header.clone())
    }

    async fn find(&self, http: &Http) -> Result<Arc<Found>, Error> {
        let find = || async {
            let found = self.credentials.find(&self.host).await?;
            if found.secret.is_some() && http.keeps_logins {
                let host = &self.host;
                return Err(format!(
                    "{} would go to it over plain HTTP, for everybody on the way to read; if that is meant, say so in the \
                     environment: {}={host}",
                    found.source,
                    insecure::VARIABLE
                ));
            }
            Ok(Arc::new(found))
        };
        let found = self.found.get_or_try_init(find).await;
        found.cloned().map_err(|reason| Error::Credentials { registry: self.host.clone(), reason })
    }

    /// A token and when to ask for the next (distribution's "Token Authentication Specification" and, for identity
    /// tokens, its "Oauth2 Token Authentication").
    async fn fetch(
        &self,
        http: &Http,
        scope: &Scope,
        way: &Challenge,
        found: &Found,
    ) -> Result<(String, Instant), Failure> {
        let wrong = |reason: &str| Error::Answer {
            registry: self.host.clone(),
            what: "a request without a token".to_owned(),
            reason: reason.to_owned(),
        };
        let realm = way.get("realm").and_then(|realm| Url::parse(realm).ok());
        let realm = realm.ok_or_else(|| wrong("it names no token server"))?;
        if realm.scheme() != "https" && !http.may_be_plain(&realm) {
            return Err(wrong("its token server is not reached by https, so it gets no credentials").into());
        }
        let service = way.get("service").unwrap_or_default();
        let mut scopes = scope.0.clone();
        // Registries with name spaces of their own ask for more than the repository's path says.
        for asked in way.get("scope").unwrap_or_default().split_whitespace() {
            if !scope.0.iter().any(|known| covers(known, asked)) {
                scopes.push(asked.to_owned());
            }
        }
        let request = match &found.secret {
            Some(Secret::Identity(token)) => {
                let scopes = scopes.join(" ");
                let form = [
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("scope", &scopes),
                    ("client_id", "imgforge"),
                    ("refresh_token", token),
                ];
                http.client().request(Method::POST, realm).form(&form)
            }
            secret => {
                let mut query = vec![("service", service)];
                query.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
                query.extend(secret.as_ref().and_then(Secret::user).map(|user| ("account", user)));
                let request = http.client().request(Method::GET, realm).query(&query);
                match secret.as_ref().and_then(Secret::basic) {
                    Some(basic) => request.header(AUTHORIZATION, basic),
                    None => request,
                }
            }
        };
        let asked = Instant::now();
        let response = http.send(request, None).await?;
        let status = response.status();
        if matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let message = http.message(response).await.message;
            return Err(self.refused(scope, &format!("its token server answers {message}")).into());
        }
        if !status.is_success() {
            return Err(wrong(&format!("its token server answers {status}")).into());
        }
        let bytes = http.read(response, ANSWER, "the token server's answer").await?;
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|_| wrong("its token server sends no token"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| wrong("its token server sends no token"))?;
        let lifetime = answer.expires_in.unwrap_or(LIFETIME);
        // A little before it ends: the request has its way to go, and clocks differ.
        let used = Duration::from_secs(lifetime.min(365 * 86_400)).mul_f64(0.9);
        Ok((token, asked + used))
    }

    fn refused(&self, scope: &Scope, message: &str) -> Error {
        let repository = scope.repository();
        Error::Authentication {
            registry: self.host.clone(),
            what: format!("the repository {repository}"),
            tried: self.tried(),
            message: clean(message),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a scope contains another one.
fn covers(known: &str, asked: &str) -> bool {
    let split =
        |scope: &str| scope.rsplit_once(':').map(|(name, actions)| (name.to_owned(), actions.to_owned()));
    match (split(known), split(asked)) {
        (Some((name, actions)), Some((other, wanted))) => {
            name == other && wanted.split(',').all(|action| actions.split(',').any(|known| known == action))
        }
        _ => known == asked,
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Options;

    async fn found(plain_http: Option<bool>, plain_logins: Option<bool>, credentials: Credentials) -> String {
        let options = Options {
            plain_http,
            plain_logins,
            ..Options::new("registry.example.com", Credentials::anonymous())
        };
        let (http, auth) = (Http::new(&options).unwrap(), Auth::new(&options.host, credentials));
        auth.find(&http).await.map_or_else(|error| error.to_string(), |found| found.source.clone())
    }

    #[tokio::test]
    async fn a_login_is_kept_from_plain_http_unless_the_user_allows_it() {
        let login = || Credentials::login("user", "hunter2");
        let refused = found(Some(true), Some(false), login()).await;
        assert!(refused.contains("IMGFORGE_INSECURE_REGISTRIES=registry.example.com"), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
        assert_eq!(found(Some(true), Some(true), login()).await, "the given login");
        assert_eq!(found(None, Some(false), login()).await, "the given login", "it is TLS");
        assert_eq!(found(Some(true), Some(false), Credentials::anonymous()).await, "no credentials");
    }
}
