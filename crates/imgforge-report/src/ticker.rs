//! A thread that does something at regular times until it is dropped: heartbeats and redraws, which no event causes.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// Calls a function every so often; dropping it stops the thread and waits for its end.
pub(crate) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Calls `tick` after each `interval`. If no thread can be had, nothing is called: a report without a
    /// heartbeat is better than no build.
    pub(crate) fn every(interval: Duration, mut tick: impl FnMut() + Send + 'static) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let body = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                tick();
            }
        };
        let thread = std::thread::Builder::new().name("report".into()).spawn(body).ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already; there is nothing to add to it here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticker_ticks_and_its_function_is_gone_once_it_is_dropped() {
        let (send, receive) = mpsc::channel();
        let ticker = Ticker::every(Duration::from_millis(1), move || {
            let _ = send.send(());
        });
        receive.recv().unwrap();
        drop(ticker);
        while receive.try_recv() == Ok(()) {}
        assert_eq!(receive.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }
}
