//! Addresses of servers, asked for once.
//!
//! A hundred small packages of a server that closes each connection are a hundred lookups in a moment, of which name
//! servers drop some, and each that is dropped costs the five seconds after which the system asks again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// How long an address is remembered: a server may move during a long run.
const KEPT: Duration = Duration::from_secs(60);

/// The addresses of one server, and when they were found. Who asks for the same server at the same time waits for the
/// one answer.
type Known = Arc<tokio::sync::Mutex<Option<(Instant, Vec<SocketAddr>)>>>;

/// Remembers what another resolver says.
#[derive(Default)]
pub(crate) struct Remembering<R> {
    inner: Arc<R>,
    known: Mutex<HashMap<String, Known>>,
}

impl<R: Resolve + 'static> Resolve for Remembering<R> {
    fn resolve(&self, name: Name) -> Resolving {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = Arc::clone(known.entry(name.as_str().to_owned()).or_default());
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let mut known = known.lock().await;
            let fresh = known.as_ref().filter(|(at, _)| at.elapsed() < KEPT);
            let found = match fresh {
                Some((_, found)) => found.clone(),
                None => {
                    let found: Vec<SocketAddr> = inner.resolve(name).await?.collect();
                    *known = Some((Instant::now(), found.clone()));
                    found
                }
            };
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// What the system says.
#[derive(Default)]
pub(crate) struct System;

impl Resolve for System {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The port is the one of the request.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// The system's resolver, counted.
    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Resolve for Counted {
        fn resolve(&self, name: Name) -> Resolving {
            self.0.fetch_add(1, Ordering::SeqCst);
            System.resolve(name)
        }
    }

    #[tokio::test]
    async fn a_server_is_looked_up_once_and_a_failure_is_not_remembered() {
        let resolver = Remembering::<Counted>::default();
        let resolve = async |name: &str| {
            let found = resolver.resolve(name.parse().unwrap()).await;
            found.map(Iterator::collect::<Vec<SocketAddr>>)
        };
        let first = resolve("localhost").await.unwrap();
        assert!(!first.is_empty() && first.iter().all(|address| address.ip().is_loopback()));
        let (second, third) = tokio::join!(resolve("localhost"), resolve("localhost"));
        assert_eq!((second.unwrap(), third.unwrap()), (first.clone(), first));
        assert_eq!(resolver.inner.0.load(Ordering::SeqCst), 1);
        for _ in 0..2 {
            assert!(resolve("name.invalid").await.is_err());
        }
        assert_eq!(resolver.inner.0.load(Ordering::SeqCst), 3);
    }
}
