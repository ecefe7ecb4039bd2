//! Where the events of a run go.

use std::sync::Arc;

use imgforge_core::event::{Event, Reporter};
use imgforge_engine::{CancellationToken, EventSender};
use imgforge_report::{Recorder, RunReport};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::build::while_telling;
use crate::registry::publish::Published;

/// Tells a warning.
pub(super) fn warn(reporter: &mut dyn Reporter, message: String) {
    reporter.event(&Event::Warning { message });
}

/// The receiver of events: passes them to whoever waits for the run, and into its report.
pub(super) struct Telling<'r> {
    pub(super) recorder: Recorder,
    reporter: &'r mut dyn Reporter,
    /// For those who work elsewhere.
    pub(super) events: EventSender,
    receiver: UnboundedReceiver<Event>,
}

impl<'r> Telling<'r> {
    pub(super) fn new(reporter: &'r mut dyn Reporter) -> Self {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        // A reader that is gone does not want to know.
        let events: EventSender = Arc::new(move |event| drop(sender.send(event)));
        Self { recorder: Recorder::new(), reporter, events, receiver }
    }

    /// Waits for `work`, and tells its events meanwhile, to `also` first.
    pub(super) async fn during<T>(
        &mut self,
        work: impl Future<Output = T>,
        cancel: &CancellationToken,
        mut also: impl FnMut(&Event),
    ) -> T {
        let Self { recorder, reporter, receiver, .. } = self;
        let tell = |event: &Event| {
            also(event);
            recorder.event(event);
            reporter.event(event);
        };
        while_telling(work, receiver, cancel, tell).await
    }

    /// The run's report, with the digests of what was published.
    pub(super) fn report(self, published: Option<&Published>) -> RunReport {
        for (name, digest) in published.into_iter().flat_map(|published| &published.digests) {
            self.recorder.set_digest(name, digest);
        }
        self.recorder.report()
    }
}

impl Reporter for Telling<'_> {
    fn event(&mut self, event: &Event) {
        self.recorder.event(event);
        self.reporter.event(event);
    }
}
