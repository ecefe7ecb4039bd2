//! Addresses of servers, asked for once.
//!
//! ureq asks for a server's address before each request, also when it has a connection to it already. A hundred small
//! packages are a hundred lookups in a moment, of which name servers drop some, and each that is dropped costs the five
//! seconds after which the system asks again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Remembers what another resolver says, for as long as the agent lives that it belongs to: one run.
#[derive(Debug, Default)]
pub(crate) struct Remembering<R> {
    inner: R,
    known: Mutex<HashMap<(String, u16), ResolvedSocketAddrs>>,
}

impl<R: Resolver> Resolver for Remembering<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        // The port is part of the answer; one that is not given follows from the scheme.
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let server = (uri.host().unwrap_or_default().to_owned(), port);
        // Who asks for the same server at the same time waits here for the one answer.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&server) {
            return Ok(found.clone());
        }
        let found = self.inner.resolve(uri, config, timeout)?;
        known.insert(server, found.clone());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use ureq::unversioned::resolver::DefaultResolver;

    use super::*;

    /// The system's resolver, counted.
    #[derive(Debug, Default)]
    struct Counted(DefaultResolver, Arc<AtomicUsize>);

    impl Resolver for Counted {
        fn resolve(
            &self,
            uri: &Uri,
            config: &Config,
            timeout: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.resolve(uri, config, timeout)
        }
    }

    #[test]
    fn a_server_is_looked_up_once_and_a_failure_is_not_remembered() {
        let asked = Arc::new(AtomicUsize::new(0));
        let resolver = Remembering {
            inner: Counted(DefaultResolver::default(), Arc::clone(&asked)),
            known: Mutex::default(),
        };
        let timeout = NextTimeout {
            after: Duration::from_secs(20).into(),
            reason: ureq::Timeout::Resolve,
            per_read: None,
            per_write: None,
        };
        let resolve = |uri: &str| {
            let found = resolver.resolve(&uri.parse().unwrap(), &Config::default(), timeout);
            found.map(|found| found.to_vec())
        };
        let first = resolve("http://127.0.0.1:81/a").unwrap();
        assert_eq!(first, ["127.0.0.1:81".parse().unwrap()]);
        assert_eq!(resolve("http://127.0.0.1:81/b").unwrap(), first);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // Another port or scheme is another address.
        assert_eq!(resolve("https://127.0.0.1/a").unwrap()[0].port(), 443);
        assert_eq!(resolve("http://127.0.0.1/a").unwrap()[0].port(), 80);
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        for _ in 0..2 {
            assert!(resolve("http://name.invalid/").is_err());
        }
        assert_eq!(asked.load(Ordering::SeqCst), 5);
    }
}
