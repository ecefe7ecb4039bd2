//! How fast a body must come: a server that sends a byte now and then would hold a run for ever.

use std::time::Duration;

/// Bytes a second, on average over the time in which nothing at all may come. A modem of 1990 does better.
const SLOWEST: u64 = 1 << 10;

/// What has come of one body since it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// The time spent waiting; what is done with the bytes meanwhile does not count.
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Notes `bytes` that came after `waited`.
    ///
    /// # Errors
    /// In words, that fewer bytes than the least a second came during `window`.
    pub(crate) fn took(&mut self, waited: Duration, bytes: u64, window: Duration) -> Result<(), String> {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < window {
            return Ok(());
        }
        let Self { waited, bytes } = std::mem::take(self);
        if u128::from(bytes) * 1_000 < u128::from(SLOWEST) * waited.as_millis() {
            let seconds = waited.as_secs_f32();
            return Err(format!(
                "only {bytes} bytes came in {seconds:.0} s, and {SLOWEST} a second are the least"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_every_five_seconds_is_too_slow_and_a_slow_line_is_not() {
        let (window, second) = (Duration::from_secs(60), Duration::from_secs(1));
        let mut pace = Pace::default();
        let results: Vec<bool> = (0..12).map(|_| pace.took(second * 5, 1, window).is_ok()).collect();
        assert_eq!(results.iter().filter(|is_ok| !**is_ok).count(), 1, "told at the end of the window");
        let mut pace = Pace::default();
        assert!((0..1_000).all(|_| pace.took(second, 1_500, window).is_ok()));
        let mut pace = Pace::default();
        assert!(pace.took(second * 59, 0, window).is_ok(), "a pause is none yet");
        assert!(pace.took(second, 1 << 20, window).is_ok());
    }
}
