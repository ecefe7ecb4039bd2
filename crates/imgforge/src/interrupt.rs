//! Ctrl-C and TERM: the first cancels the run, a second one ends the program at once.

use imgforge::CancellationToken;

/// Cancels `cancel` at the first signal. The thread that waits for it ends with the program.
pub(crate) fn listen(cancel: CancellationToken) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // Without a runtime the signals keep their usual effect: the program ends.
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async move {
            signal().await;
            cancel.cancel();
            signal().await;
            std::process::exit(130);
        });
    });
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}
