//! Brings the progress of package sources, which work in threads of their own, to the one reader of events.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use imgforge_core::event::{Event, Reporter};
use imgforge_packages::Progress;

use crate::Error;

/// Sends progress as events.
pub(crate) struct EventProgress(Sender<Event>);

impl EventProgress {
    pub(crate) fn new(events: Sender<Event>) -> Self {
        Self(events)
    }
}

impl Progress for EventProgress {
    fn fetching(&self, what: &str, done: u64, total: u64) {
        // A reader that is gone does not want to know.
        let _ = self.0.send(Event::Fetching { what: what.to_owned(), done, total });
    }

    fn fetched(&self, what: &str, bytes: u64, files: usize, took: Duration) {
        let _ = self.0.send(Event::Fetched { what: what.to_owned(), bytes, files, took });
    }
}

/// Runs `work` in a thread and gives its events to the reporter here, until it is done.
pub(crate) fn pump<T: Send>(
    reporter: &mut dyn Reporter,
    work: impl FnOnce(Sender<Event>) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| work(sender));
        for event in receiver {
            reporter.event(&event);
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
