//! A panic, in whatever thread, ends the program with exit code 70, after a word on what to do.
//!
//! At once, since a part of the program that is gone would leave the others waiting, or telling half of what happened
//! (and tokio aborts the process when it panics itself, as when a thread cannot be woken). Nothing has to be put in
//! order: what lies on disk is whole at any moment, and what was started elsewhere is seen by the next run, as after
//! `kill -9`.

use std::io::Write;
use std::panic::PanicHookInfo;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code (`EX_SOFTWARE` of `sysexits.h`).
const BUG: i32 = 70;

/// From here on panics are told and end the program.
pub(crate) fn end_the_program() {
    std::panic::set_hook(Box::new(|panic| {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::SeqCst) {
            tell(panic);
        }
        exit(BUG);
    }));
}

/// Tells of a panic. Where nothing can be written, the exit code alone tells of it.
fn tell(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = std::backtrace::Backtrace::capture();
    let mut err = anstream::stderr();
    let _ = writeln!(err, "\nthread \"{}\": {panic}", thread.name().unwrap_or("unnamed"));
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        let _ = writeln!(err, "{backtrace}");
    }
    let _ = writeln!(
        err,
        "This is a bug in imgforge: it ended in the middle of its work. Do it again: what was done stays, and nothing half done is taken \
         for done. Please report it with the lines above and what `imgforge --version` says."
    );
}
