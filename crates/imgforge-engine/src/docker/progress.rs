//! Reads BuildKit's progress: which step runs, what it prints, and which one failed.
//!
//! Some daemons repeat a vertex in each message, so that every step is told once only.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bollard::moby::buildkit::v1::{StatusResponse, Vertex};

use super::causes;
use super::steps::{Named, Steps};
use crate::{BuildError, Error, StepEvent, StepSink};

/// A longer line is told in pieces of this many bytes.
const MAX_LINE: usize = 16 * 1024;

/// The number of a step's last lines that an error carries.
const TAIL_LINES: usize = 40;

/// The known state of one build.
pub(super) struct Progress {
    sink: StepSink,
    dockerfile: Steps,
    /// By the digest of their vertex.
    steps: HashMap<String, Step>,
    lines: HashMap<(String, i64), LineCutter>,
    /// The vertex that failed first, with its error.
    failed: Option<(String, String)>,
}

struct Step {
    named: Named,
    is_told: bool,
    tail: VecDeque<String>,
}

impl Progress {
    /// Of a build of the Dockerfile with these steps.
    pub(super) fn new(sink: StepSink, dockerfile: Steps) -> Self {
        Self { sink, dockerfile, steps: HashMap::new(), lines: HashMap::new(), failed: None }
    }

    /// Takes notice of one message of the daemon.
    pub(super) fn update(&mut self, status: &StatusResponse) {
        for vertex in &status.vertexes {
            self.vertex(vertex);
        }
        for log in &status.logs {
            let lines = self.lines.entry((log.vertex.clone(), log.stream)).or_default().push(&log.msg);
            for line in lines {
                self.line(&log.vertex, line);
            }
        }
        for vertex in status.vertexes.iter().filter(|vertex| vertex.completed.is_some()) {
            self.flush(&vertex.digest);
        }
    }

    fn vertex(&mut self, vertex: &Vertex) {
        // Steps that are stopped because another failed have an error too.
        if self.failed.is_none() && !vertex.error.is_empty() && !causes::is_stopped(&vertex.error) {
            self.failed = Some((vertex.digest.clone(), vertex.error.clone()));
        }
        let Some(named) = Named::parse(&vertex.name) else { return };
        let step = self.steps.entry(vertex.digest.clone()).or_insert_with(|| Step {
            named,
            is_told: false,
            tail: VecDeque::new(),
        });
        if !step.is_told && (vertex.started.is_some() || vertex.cached) {
            step.is_told = true;
            let Named { number, total, text, .. } = step.named.clone();
            (self.sink)(StepEvent::Step { number, total, text, cached: vertex.cached });
        }
    }

    fn line(&mut self, vertex: &str, line: String) {
        let step = self.steps.get_mut(vertex).map(|step| {
            if step.tail.len() == TAIL_LINES {
                step.tail.pop_front();
            }
            step.tail.push_back(line.clone());
            step.named.number
        });
        (self.sink)(StepEvent::Log { step, line });
    }

    fn flush(&mut self, vertex: &str) {
        let streams: Vec<(String, i64)> = self.lines.keys().filter(|(of, _)| of == vertex).cloned().collect();
        for key in streams {
            if let Some(line) = self.lines.get_mut(&key).and_then(LineCutter::finish) {
                self.line(vertex, line);
            }
        }
    }

    /// Tells what is left of unfinished lines.
    pub(super) fn finish(&mut self) {
        let vertexes: BTreeSet<String> = self.lines.keys().map(|(vertex, _)| vertex.clone()).collect();
        for vertex in &vertexes {
            self.flush(vertex);
        }
    }

    /// Why the build failed, given what the daemon said at its end.
    pub(super) fn failure(mut self, message: String) -> BuildError {
        self.finish();
        if causes::is_full(&message) {
            return BuildError::NoSpace;
        }
        let Some((digest, error)) = self.failed.take() else {
            return causes::refused(message, &self.dockerfile.images);
        };
        if causes::is_full(&error) {
            return BuildError::NoSpace;
        }
        let Some(step) = self.steps.remove(&digest) else {
            return causes::refused(error, &self.dockerfile.images);
        };
        if step.named.is_from() {
            let told = format!("{}: {error}", step.named.text);
            if let Some(reference) = causes::missing_image(&told, &self.dockerfile.images) {
                return BuildError::MissingImage { reference, message: error };
            }
        }
        let place = self.dockerfile.place(&step.named, self.steps.values().map(|step| &step.named));
        let log_tail: Vec<String> = step.tail.into();
        let why = causes::of_step(&error, &log_tail);
        let Named { number, total, text, .. } = step.named;
        BuildError::Step { number, total, text, place, why, log_tail }
    }

    /// The same, when the connection broke before the daemon said how it ended.
    pub(super) fn broken(mut self, error: Error) -> BuildError {
        self.finish();
        BuildError::Engine(error)
    }
}

/// Cuts a stream of bytes into lines. A carriage return ends a line too, as progress bars use it.
#[derive(Default)]
struct LineCutter {
    pending: Vec<u8>,
    after_return: bool,
}

impl LineCutter {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            let is_second_half = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if is_second_half && self.pending.is_empty() => {}
                b'\r' if self.pending.is_empty() => {}
                b'\n' | b'\r' => lines.push(self.take(self.pending.len())),
                _ => {
                    self.pending.push(byte);
                    if self.pending.len() >= MAX_LINE {
                        lines.push(self.take(whole_characters(&self.pending)));
                    }
                }
            }
        }
        lines
    }

    fn finish(&mut self) -> Option<String> {
        (!self.pending.is_empty()).then(|| self.take(self.pending.len()))
    }

    fn take(&mut self, count: usize) -> String {
        let rest = self.pending.split_off(count);
        let line = std::mem::replace(&mut self.pending, rest);
        String::from_utf8_lossy(&line).into_owned()
    }
}

/// Returns how many of `bytes` there are without the beginning of a UTF-8 character at their end.
fn whole_characters(bytes: &[u8]) -> usize {
    let continuing = bytes.iter().rev().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
    let Some(lead) = bytes.len().checked_sub(continuing + 1) else { return bytes.len() };
    // A first byte has as many leading ones as its character has bytes.
    let wanted = bytes[lead].leading_ones() as usize;
    if (2..=4).contains(&wanted) && continuing + 1 < wanted { lead } else { bytes.len() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Place, StepFailure};

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let mut cutter = LineCutter::default();
        let mut lines: Vec<String> = pieces.iter().flat_map(|piece| cutter.push(piece)).collect();
        lines.extend(cutter.finish());
        lines
    }

    #[test]
    fn lines_end_at_newlines_and_carriage_returns_wherever_messages_are_cut() {
        assert_eq!(cut(&[b"a\nb", b"c\r", b"\n\nd\r10%\r20%"]), ["a", "bc", "", "d", "10%", "20%"]);
        assert_eq!(cut(&[b"\xff\n"]), ["\u{fffd}"]);
    }

    #[test]
    fn a_very_long_line_is_cut_between_characters() {
        let text = format!("a{}", "é".repeat(MAX_LINE));
        let lines = cut(&[text.as_bytes()]);
        assert!(lines.iter().all(|line| line.len() <= MAX_LINE && !line.contains('\u{fffd}')));
        assert_eq!(lines.concat(), text);
    }

    /// The error of a build in which step 2 failed with `error` after step 3 of another stage was stopped for it.
    fn failure(error: &str, message: &str) -> BuildError {
        let dockerfile = Steps::new("FROM scratch\nRUN x1\nRUN x2\nRUN x3\n", &BTreeMap::new());
        let mut progress = Progress::new(std::sync::Arc::new(|_| ()), dockerfile);
        let vertex = |number: usize, error: &str| Vertex {
            digest: number.to_string(),
            name: format!("[{number}/3] RUN x{number}"),
            error: error.to_owned(),
            ..Vertex::default()
        };
        let vertexes = vec![vertex(3, "context canceled"), vertex(2, error)];
        progress.update(&StatusResponse { vertexes, ..StatusResponse::default() });
        progress.failure(message.to_owned())
    }

    #[test]
    fn the_step_that_failed_is_told_from_those_that_were_stopped_for_it() {
        let error = "executor failed running [/bin/sh -c x2]: exit code: 137";
        let failure = failure(error, "failed to solve");
        let BuildError::Step { number: 2, total: 3, place, why, .. } = &failure else {
            panic!("{failure:?}")
        };
        assert_eq!((place, why), (&Some(Place { stage: 0, instruction: 2 }), &StepFailure::Exit(137)));
        let told = failure.to_string();
        assert!(told.starts_with("step 2/3 (RUN x2): the command was killed"), "{told}");
    }

    #[test]
    fn a_full_disk_is_told_as_such_wherever_the_daemon_says_so() {
        let full = "write /var/lib/docker/x: no space left on device";
        assert!(matches!(failure(full, "failed to solve"), BuildError::NoSpace));
        assert!(matches!(failure("", full), BuildError::NoSpace));
    }
}
