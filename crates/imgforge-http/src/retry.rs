//! When and how often something is tried again.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// How patient a [`Client`](crate::Client) is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How often something is tried in all, at least 1. A transfer that moves on between two failures begins to count
    /// anew.
    pub tries: u32,
    /// The wait before the second try; each further one is twice as long, and up to a half shorter by chance, so that
    /// many clients do not come back together.
    pub delay: Duration,
    /// The longest such wait.
    pub max_delay: Duration,
    /// The longest `Retry-After` that is waited for; a server that asks for more is an error.
    pub max_retry_after: Duration,
    /// How long a connection may be made.
    pub connect: Duration,
    /// How long nothing may come or go before a request counts as stalled.
    pub idle: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 6,
            delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(20),
            max_retry_after: Duration::from_secs(180),
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(60),
        }
    }
}

/// What came of one try that did not succeed.
#[derive(Debug)]
pub enum Failure<E> {
    /// Trying again may help.
    Passing {
        /// Why, in a few words.
        reason: String,
        /// The wait that the server asks for.
        retry_after: Option<Duration>,
    },
    /// It will not.
    Final(E),
}

impl<E> Failure<E> {
    /// One that may pass, of a server that asks for no wait.
    pub fn passing(reason: impl Into<String>) -> Self {
        Self::Passing { reason: reason.into(), retry_after: None }
    }
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Final(error)
    }
}

/// Counts tries of one thing.
pub struct Tries<'a, F> {
    retry: &'a Retry,
    unreachable: F,
    failed: u32,
}

impl<'a, F> Tries<'a, F> {
    /// None was made yet; `unreachable` makes an error of the last reason when there is none left.
    pub fn new(retry: &'a Retry, unreachable: F) -> Self {
        Self { retry, unreachable, failed: 0 }
    }

    /// It has moved on: what failed before counts no more.
    pub fn moved_on(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// When there is none.
    pub async fn again<E>(&mut self, failure: Failure<E>) -> Result<(), E>
    where
        F: Fn(String) -> E,
    {
        let (reason, retry_after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { reason, retry_after } => (reason, retry_after),
        };
        self.failed += 1;
        if self.failed >= self.retry.tries {
            let tries = self.failed;
            let reason = if tries == 1 { reason } else { format!("{reason} ({tries} tries)") };
            return Err((self.unreachable)(reason));
        }
        if let Some(wait) = retry_after.filter(|wait| *wait > self.retry.max_retry_after) {
            let seconds = wait.as_secs();
            return Err((self.unreachable)(format!(
                "{reason} and asks to wait {seconds} s: do it again then"
            )));
        }
        tokio::time::sleep(self.backoff().max(retry_after.unwrap_or_default())).await;
        Ok(())
    }

    fn backoff(&self) -> Duration {
        let doublings = (self.failed - 1).min(16);
        let whole = self.retry.delay.saturating_mul(1 << doublings).min(self.retry.max_delay);
        whole.mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}

/// The wait that `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second();
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(date.try_into().ok()?);
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let wait =
            |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]), now);
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:07 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:30 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("99999999999999999999999"), Some(Duration::MAX));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-3"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn waits_double_up_to_a_bound_and_differ_by_chance() {
        let retry =
            Retry { delay: Duration::from_secs(1), max_delay: Duration::from_secs(5), ..Retry::default() };
        for (failed, whole) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (40, 5.0)] {
            for _ in 0..50 {
                let wait = Tries { retry: &retry, unreachable: (), failed }.backoff().as_secs_f64();
                assert!(wait > whole * 0.499 && wait <= whole, "{wait} after {failed}");
            }
        }
    }
}
