//! A step's output as lines.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use imgforge_engine::{StepEvent, StepSink};

use crate::worker::Output;

/// A longer line is told in pieces of this many bytes.
const MAX_LINE: usize = 16 << 10;

/// Cuts output into lines, tells each, and keeps the last ones.
pub(crate) struct Lines(Arc<Mutex<Inner>>);

struct Inner {
    step: usize,
    events: StepSink,
    keep: usize,
    begun: Vec<u8>,
    tail: VecDeque<String>,
}

impl Lines {
    pub(crate) fn new(step: usize, events: StepSink, keep: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner { step, events, keep, begun: Vec::new(), tail: VecDeque::new() })))
    }

    /// Returns the sink to which output goes.
    pub(crate) fn sink(&self) -> Output {
        let inner = Arc::clone(&self.0);
        Arc::new(move |_, piece| lock(&inner).piece(piece))
    }

    /// Tells what is left of a last line without an end. The last lines.
    pub(crate) fn finish(self) -> Vec<String> {
        let mut inner = lock(&self.0);
        if !inner.begun.is_empty() {
            inner.line();
        }
        std::mem::take(&mut inner.tail).into()
    }
}

impl Inner {
    fn piece(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.begun.pop();
                self.line();
            }
            while self.begun.len() >= MAX_LINE {
                let rest = self.begun.split_off(MAX_LINE);
                self.line();
                self.begun = rest;
            }
        }
    }

    fn line(&mut self) {
        let line = String::from_utf8_lossy(&self.begun).trim_end_matches('\r').to_owned();
        self.begun.clear();
        if self.tail.len() == self.keep {
            self.tail.pop_front();
        }
        self.tail.push_back(line.clone());
        (self.events)(StepEvent::Log { step: Some(self.step), line });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_becomes_lines_however_it_comes() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let events: StepSink = {
            let told = Arc::clone(&told);
            Arc::new(move |event| match event {
                StepEvent::Log { step: Some(3), line } => told.lock().unwrap().push(line),
                other => panic!("{other:?}"),
            })
        };
        let lines = Lines::new(3, events, 2);
        let sink = lines.sink();
        for piece in ["on", "e\ntwo\r\n", "\n", "thr", "ee"] {
            sink(false, piece.as_bytes());
        }
        sink(true, &vec![b'x'; MAX_LINE]);
        assert_eq!(lines.finish().len(), 2);
        let told = told.lock().unwrap();
        assert_eq!(told[..3], ["one", "two", ""]);
        assert!(told[3].starts_with("threexxx") && told[3].len() == MAX_LINE);
        assert_eq!(told[4], "xxxxx");
    }
}
