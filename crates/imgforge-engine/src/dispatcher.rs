//! Drives a [`Schedule`]: starts what is ready while there are free slots, and tells how each target ended.
//!
//! What is done for a target is behind [`Work`], so that building, testing and pushing share one dispatcher.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use imgforge_core::event::{Activity, Event, Outcome};
use imgforge_core::name::ImageName;
use imgforge_core::schedule::Schedule;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The receiver of events.
pub type EventSender = Arc<dyn Fn(Event) + Send + Sync>;

/// Something was not done for a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failed {
    /// Why, in one line.
    pub message: String,
}

/// The work that is done for each target.
pub trait Work: Send + Sync {
    /// Returns the activity that comes first.
    fn activity(&self, _target: &ImageName) -> Activity {
        Activity::Build
    }

    /// Does it, and says what came of it. Once `cancel` is cancelled, it cleans up and returns soon, with whatever
    /// error.
    fn run(&self, target: ImageName, cancel: CancellationToken) -> BoxFuture<'_, Result<Outcome, Failed>>;
}

/// The end of one target, and the time that it took (nothing, when it has not begun).
pub type Ended = (ImageName, Outcome, Duration);

/// Does `work` for every target of `schedule`, up to `slots` (at least one) at a time, and returns how each ended, in
/// that order. After `cancel`, nothing more starts; what runs is told to stop and waited for.
pub async fn dispatch(
    schedule: Schedule<ImageName>,
    work: Arc<dyn Work>,
    slots: usize,
    cancel: CancellationToken,
    events: EventSender,
) -> Vec<Ended> {
    let mut dispatcher = Dispatcher {
        schedule,
        work,
        cancel,
        events,
        tasks: JoinSet::new(),
        running: HashMap::new(),
        ended: Vec::new(),
    };
    dispatcher.run(slots.max(1)).await;
    dispatcher.ended
}

struct Dispatcher {
    schedule: Schedule<ImageName>,
    work: Arc<dyn Work>,
    cancel: CancellationToken,
    events: EventSender,
    tasks: JoinSet<Result<Outcome, Failed>>,
    running: HashMap<Id, (ImageName, Instant)>,
    ended: Vec<Ended>,
}

impl Dispatcher {
    async fn run(&mut self, slots: usize) {
        let cancel = self.cancel.clone();
        loop {
            if cancel.is_cancelled() {
                self.stop();
            }
            while self.tasks.len() < slots {
                let Some(target) = self.schedule.next() else { break };
                self.start(target);
            }
            tokio::select! {
                joined = self.tasks.join_next_with_id() => match joined {
                    Some(joined) => self.joined(joined),
                    None => break,
                },
                () = cancel.cancelled(), if !self.schedule.is_stopped() => {}
            }
        }
        // Those that did not begin because another failed fast.
        self.stop();
    }

    fn start(&mut self, target: ImageName) {
        let activity = self.work.activity(&target);
        (self.events)(Event::TargetStarted { target: target.clone(), activity });
        let (work, cancel, name) = (Arc::clone(&self.work), self.cancel.child_token(), target.clone());
        let handle = self.tasks.spawn(async move { work.run(name, cancel).await });
        self.running.insert(handle.id(), (target, Instant::now()));
    }

    fn joined(&mut self, joined: Result<(Id, Result<Outcome, Failed>), JoinError>) {
        let (id, result) = match joined {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(Failed { message: panic_message(error) })),
        };
        let Some((target, since)) = self.running.remove(&id) else { return };
        let blocked = self.schedule.finish(&target, result.is_ok());
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(_) if self.cancel.is_cancelled() => Outcome::Cancelled,
            Err(Failed { message }) => Outcome::Failed { message },
        };
        let is_cancelled = outcome == Outcome::Cancelled;
        self.end(target, outcome, since.elapsed());
        for (skipped, blocked_by) in blocked {
            let outcome = if is_cancelled { Outcome::Cancelled } else { Outcome::Skipped { blocked_by } };
            self.end(skipped, outcome, Duration::ZERO);
        }
    }

    fn stop(&mut self) {
        for target in self.schedule.cancel() {
            self.end(target, Outcome::Cancelled, Duration::ZERO);
        }
    }

    fn end(&mut self, target: ImageName, outcome: Outcome, took: Duration) {
        (self.events)(Event::TargetFinished { target: target.clone(), outcome: outcome.clone(), took });
        self.ended.push((target, outcome, took));
    }
}

fn panic_message(error: JoinError) -> String {
    let text = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => {
            panic.downcast::<&str>().map_or_else(|_| "no message".to_owned(), |text| (*text).to_owned())
        }
    };
    match error.try_into_panic() {
        Ok(panic) => format!("imgforge itself failed (please report this): {}", text(panic)),
        Err(error) => error.to_string(),
    }
}
