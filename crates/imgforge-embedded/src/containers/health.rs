//! Healthchecks, as Docker carries them out (moby's `daemon/health.go`).

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use imgforge_engine::CancellationToken;
use imgforge_engine::containers::Health;
use imgforge_oci::Healthcheck;
use tokio::time::Instant;

use super::record::{Folder, Record};
use super::{Live, exec_request};
use crate::engine::silent;
use crate::worker::Client;
use crate::worker::message::{Reply, Request};

/// The time between two checks that give none; Docker's.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u64 = 3;

/// Runs programs in containers, for as long as somebody needs it.
pub(super) struct Executor {
    pub(super) client: Client,
    pub(super) folder: Folder,
}

/// Returns the command of a check, if it has one.
fn command(check: &Healthcheck) -> Option<Vec<String>> {
    match check.test.split_first() {
        Some((kind, words)) if kind == "CMD" => Some(words.to_vec()),
        Some((kind, words)) if kind == "CMD-SHELL" => {
            Some(["/bin/sh", "-c"].map(str::to_owned).into_iter().chain(words.first().cloned()).collect())
        }
        _ => None,
    }
}

fn time(nanoseconds: u64, default: Duration) -> Duration {
    if nanoseconds == 0 { default } else { Duration::from_nanos(nanoseconds) }
}

/// Checks a container until it has ended.
pub(super) fn watch(executor: Executor, record: Record, check: Healthcheck, live: Arc<Live>) {
    let Some(argv) = command(&check) else { return };
    let set = {
        let live = Arc::clone(&live);
        move |health| *live.health.lock().unwrap_or_else(PoisonError::into_inner) = Some(health)
    };
    set(Health::Starting);
    let mut ended = live.ended.clone();
    drop(live);
    let checks = async move {
        let start = Duration::from_nanos(check.start_period);
        let interval = time(check.interval, INTERVAL);
        let first = time(check.start_interval, START_INTERVAL).min(interval);
        let retries = if check.retries == 0 { RETRIES } else { check.retries };
        let begun = Instant::now();
        let (mut failures, mut was_healthy) = (0, false);
        loop {
            let starts = !was_healthy && begun.elapsed() < start;
            tokio::time::sleep(if starts { first } else { interval }).await;
            let asked = executor.ask(&record, argv.clone());
            let is_well = matches!(tokio::time::timeout(time(check.timeout, TIMEOUT), asked).await, Ok(true));
            if is_well {
                (failures, was_healthy) = (0, true);
                set(Health::Healthy);
            } else if was_healthy || begun.elapsed() >= start {
                failures += 1;
                if failures >= retries {
                    set(Health::Unhealthy);
                }
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = checks => {}
            _ = ended.wait_for(Option::is_some) => {}
        }
    });
}

impl Executor {
    /// Returns whether the program ends with 0.
    async fn ask(&self, record: &Record, argv: Vec<String>) -> bool {
        // In the container's folder: it goes with it.
        let folder = self.folder.of(&record.id).join(format!("health-{:08x}", fastrand::u32(..)));
        if std::fs::create_dir(&folder).is_err() {
            return false;
        }
        let request = Request::Exec(exec_request(&self.folder, record, argv, None));
        let reply = self.client.run(&folder, &request, silent(), &CancellationToken::new()).await;
        let _ = std::fs::remove_dir_all(&folder);
        matches!(reply, Ok(Reply::Exec(0)))
    }
}
