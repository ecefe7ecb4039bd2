//! The dispatcher, driven by work that only pretends.

#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail as the tests do")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use imgforge_core::event::{Event, Outcome};
use imgforge_core::name::ImageName;
use imgforge_core::schedule::{Node, Policy, Schedule};
use imgforge_engine::{Failed, Work, dispatch};
use tokio::sync::Barrier;
use tokio_util::sync::CancellationToken;

/// Work that builds nothing: what it does is in a target's name.
#[derive(Default)]
struct FakeWork {
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    /// Targets named `meet-…` wait here for each other.
    meeting: Option<Barrier>,
}

impl Work for FakeWork {
    fn run(&self, target: ImageName, cancel: CancellationToken) -> BoxFuture<'_, Result<Outcome, Failed>> {
        async move {
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(now, Ordering::SeqCst);
            let result = match target.as_str().split('-').next().unwrap() {
                "fail" => Err(Failed { message: "as asked".into() }),
                "panic" => panic!("{target} panics"),
                "hang" => {
                    cancel.cancelled().await;
                    Err(Failed { message: "cancelled".into() })
                }
                "stop" => {
                    cancel.cancelled().await;
                    Ok(BUILT)
                }
                "meet" => {
                    self.meeting.as_ref().unwrap().wait().await;
                    Ok(BUILT)
                }
                _ => {
                    tokio::task::yield_now().await;
                    Ok(BUILT)
                }
            };
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            result
        }
        .boxed()
    }
}

fn name(text: &str) -> ImageName {
    ImageName::new(text).unwrap()
}

fn schedule(edges: &[(&str, &[&str])], policy: Policy) -> Schedule<ImageName> {
    let node = |(target, parents): &(&str, &[&str])| Node {
        id: name(target),
        parents: parents.iter().map(|parent| name(parent)).collect(),
        estimate: Duration::from_secs(1),
    };
    Schedule::new(edges.iter().map(node), policy)
}

/// Runs a family and returns how each target ended, and all events.
async fn run(
    schedule: Schedule<ImageName>,
    work: Arc<FakeWork>,
    slots: usize,
    cancel: CancellationToken,
) -> (BTreeMap<String, Outcome>, Vec<Event>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let sender = Arc::new(move |event| sink.lock().unwrap().push(event));
    let ended = dispatch(schedule, work, slots, cancel, sender).await;
    let count = ended.len();
    let outcomes: BTreeMap<String, Outcome> =
        ended.into_iter().map(|(name, outcome, _)| (name.to_string(), outcome)).collect();
    assert_eq!(outcomes.len(), count, "a target ended twice");
    let events = events.lock().unwrap().clone();
    let finished = events.iter().filter(|event| matches!(event, Event::TargetFinished { .. })).count();
    assert_eq!(finished, count, "each end is told once");
    (outcomes, events)
}

const BUILT: Outcome = Outcome::Built { size: 2, added: 1 };

#[tokio::test]
async fn slots_are_all_used_and_never_exceeded() {
    let edges: Vec<(String, &[&str])> = (0..12).map(|n| (format!("meet-{n}"), &[] as &[&str])).collect();
    let edges: Vec<(&str, &[&str])> = edges.iter().map(|(name, parents)| (name.as_str(), *parents)).collect();
    // Each waits until three run at once: with fewer at once, this test would never end.
    let work = Arc::new(FakeWork { meeting: Some(Barrier::new(3)), ..FakeWork::default() });
    let (outcomes, _) =
        run(schedule(&edges, Policy::KeepGoing), Arc::clone(&work), 3, CancellationToken::new()).await;
    assert_eq!(outcomes.len(), 12);
    assert!(outcomes.values().all(|outcome| *outcome == BUILT));
    assert_eq!(work.most_at_once.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_failure_blocks_only_its_descendants() {
    let edges: [(&str, &[&str]); 5] = [
        ("root", &[]),
        ("fail", &["root"]),
        ("child", &["fail"]),
        ("grandchild", &["child"]),
        ("other", &["root"]),
    ];
    let (outcomes, events) =
        run(schedule(&edges, Policy::KeepGoing), Arc::default(), 2, CancellationToken::new()).await;
    assert_eq!(outcomes["other"], BUILT);
    assert_eq!(outcomes["fail"], Outcome::Failed { message: "as asked".into() });
    for skipped in ["child", "grandchild"] {
        assert_eq!(outcomes[skipped], Outcome::Skipped { blocked_by: name("fail") });
    }
    let started: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::TargetStarted { target, .. } => Some(target.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(started, ["root", "fail", "other"]);
}

#[tokio::test]
async fn fail_fast_starts_nothing_more() {
    let edges: [(&str, &[&str]); 3] = [("fail", &[]), ("other", &[]), ("under", &["fail"])];
    let (outcomes, _) =
        run(schedule(&edges, Policy::FailFast), Arc::default(), 1, CancellationToken::new()).await;
    assert!(matches!(outcomes["fail"], Outcome::Failed { .. }));
    assert_eq!(outcomes["under"], Outcome::Skipped { blocked_by: name("fail") });
    assert_eq!(outcomes["other"], Outcome::Cancelled);
}

#[tokio::test]
async fn cancelling_ends_what_runs_and_begins_nothing_more() {
    let edges: [(&str, &[&str]); 4] =
        [("hang", &[]), ("stop", &[]), ("under-hang", &["hang"]), ("under-stop", &["stop"])];
    let cancel = CancellationToken::new();
    let canceller = cancel.clone();
    let work = Arc::new(FakeWork::default());
    let events = tokio::spawn(run(schedule(&edges, Policy::KeepGoing), Arc::clone(&work), 2, cancel));
    while work.at_once.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    canceller.cancel();
    let (outcomes, _) = events.await.unwrap();
    assert_eq!(outcomes["hang"], Outcome::Cancelled);
    assert_eq!(outcomes["under-hang"], Outcome::Cancelled);
    assert_eq!(outcomes["under-stop"], Outcome::Cancelled);
    assert_eq!(outcomes["stop"], BUILT, "what was built all the same is told as built");
}

#[tokio::test]
async fn a_run_that_is_cancelled_before_it_begins_builds_nothing() {
    let cancel = CancellationToken::new();
    cancel.cancel();
    let (outcomes, events) = run(schedule(&[("a", &[])], Policy::KeepGoing), Arc::default(), 2, cancel).await;
    assert_eq!(outcomes["a"], Outcome::Cancelled);
    assert_eq!(events.len(), 1);
}

#[tokio::test]
async fn a_panic_is_a_failure_of_its_target_and_no_hang() {
    let edges: [(&str, &[&str]); 3] = [("panic", &[]), ("child", &["panic"]), ("other", &[])];
    let (outcomes, _) =
        run(schedule(&edges, Policy::KeepGoing), Arc::default(), 2, CancellationToken::new()).await;
    assert!(matches!(&outcomes["panic"], Outcome::Failed { message } if message.contains("panic panics")));
    assert_eq!(outcomes["child"], Outcome::Skipped { blocked_by: name("panic") });
    assert_eq!(outcomes["other"], BUILT);
}
