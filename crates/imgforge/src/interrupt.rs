//! Ctrl-C and TERM: the first cancels what is being built, a second one ends the program at once.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use imgforge::CancellationToken;
use imgforge::core::event::{Event, Reporter};

/// The exit code after a signal.
const INTERRUPTED: i32 = 130;

/// Cancels a build at the first signal, and ends the program at the second. Before anything is being built (manifests
/// are read, packages fetched) there is nothing to cancel, and the program ends at once: caches are written whole or
/// not at all.
pub(crate) struct Interrupt {
    building: Arc<AtomicBool>,
    guarded: Arc<AtomicBool>,
    second: CancellationToken,
}

impl Interrupt {
    /// Waits for signals in a thread that ends with the program.
    pub(crate) fn listen(cancel: CancellationToken) -> Self {
        let building = Arc::new(AtomicBool::new(false));
        let is_building = Arc::clone(&building);
        let (guarded, second) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let (is_guarded, at_second) = (Arc::clone(&guarded), second.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            // Without a runtime the signals keep their usual effect: the program ends.
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async move {
                signal().await;
                if !is_building.load(Ordering::SeqCst) {
                    exit(INTERRUPTED);
                }
                cancel.cancel();
                signal().await;
                if is_guarded.load(Ordering::SeqCst) {
                    at_second.cancel();
                    signal().await;
                }
                exit(INTERRUPTED);
            });
        });
        Self { building, guarded, second }
    }

    /// From here on there is something to clean up at a second signal too: it cancels what is returned, and only a
    /// third one ends the program at once.
    pub(crate) fn guard(&self) -> CancellationToken {
        self.building.store(true, Ordering::SeqCst);
        self.guarded.store(true, Ordering::SeqCst);
        self.second.clone()
    }

    /// A reporter that also notices when building begins.
    pub(crate) fn watch(&self, reporter: Box<dyn Reporter>) -> Box<dyn Reporter> {
        Box::new(Watching { building: Arc::clone(&self.building), reporter })
    }
}

struct Watching {
    building: Arc<AtomicBool>,
    reporter: Box<dyn Reporter>,
}

impl Reporter for Watching {
    fn event(&mut self, event: &Event) {
        if matches!(event, Event::Started { .. }) {
            self.building.store(true, Ordering::SeqCst);
        }
        self.reporter.event(event);
    }
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}
