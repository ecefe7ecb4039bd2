//! Reads BuildKit's progress: which step runs, what it prints, and why it failed.
//!
//! BuildKit reports vertexes of its graph. Those whose name starts with a bracket that ends in `N/M` are steps of the
//! Dockerfile (`[builder 2/7] RUN make`, `[linux/amd64 2/3] …`); the others (`[internal] load metadata`) are its own
//! affairs. Some daemons repeat a vertex in each message, so that every step is told once only.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bollard::moby::buildkit::v1::{StatusResponse, Vertex};

use crate::secrets::missing_secret;
use crate::{BuildError, Error, StepEvent, StepSink};

/// A longer line is told in pieces of this many bytes.
const MAX_LINE: usize = 16 * 1024;

/// The number of a step's last lines that an error carries.
const TAIL_LINES: usize = 40;

/// The known state of one build.
pub(crate) struct Progress {
    sink: StepSink,
    steps: HashMap<String, Step>,
    lines: HashMap<(String, i64), LineCutter>,
    /// The vertex that failed first, with its error.
    failed: Option<(String, String)>,
}

struct Step {
    number: usize,
    total: usize,
    text: String,
    is_told: bool,
    tail: VecDeque<String>,
}

impl Progress {
    pub(crate) fn new(sink: StepSink) -> Self {
        Self { sink, steps: HashMap::new(), lines: HashMap::new(), failed: None }
    }

    /// Takes notice of one message of the daemon.
    pub(crate) fn update(&mut self, status: &StatusResponse) {
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
        if self.failed.is_none() && !vertex.error.is_empty() && !vertex.error.contains("context canceled") {
            self.failed = Some((vertex.digest.clone(), vertex.error.clone()));
        }
        let Some(parsed) = Step::parse(&vertex.name) else { return };
        let step = self.steps.entry(vertex.digest.clone()).or_insert(parsed);
        if !step.is_told && (vertex.started.is_some() || vertex.cached) {
            step.is_told = true;
            let (number, total, text) = (step.number, step.total, step.text.clone());
            (self.sink)(StepEvent::Step { number, total, text, cached: vertex.cached });
        }
    }

    fn line(&mut self, vertex: &str, line: String) {
        let step = self.steps.get_mut(vertex).map(|step| {
            if step.tail.len() == TAIL_LINES {
                step.tail.pop_front();
            }
            step.tail.push_back(line.clone());
            step.number
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
    pub(crate) fn finish(&mut self) {
        let vertexes: BTreeSet<String> = self.lines.keys().map(|(vertex, _)| vertex.clone()).collect();
        for vertex in &vertexes {
            self.flush(vertex);
        }
    }

    /// Why the build failed, given what the daemon said at its end.
    pub(crate) fn failure(mut self, message: String) -> BuildError {
        self.finish();
        if message.contains("no space left on device") {
            return BuildError::NoSpace;
        }
        let Some((digest, error)) = self.failed else { return BuildError::Refused { message } };
        if error.contains("no space left on device") {
            return BuildError::NoSpace;
        }
        match self.steps.remove(&digest) {
            Some(step) => BuildError::Step {
                number: step.number,
                total: step.total,
                text: step.text,
                message: explain(&error),
                log_tail: step.tail.into(),
            },
            None => BuildError::Refused { message: error },
        }
    }

    /// The same, when the connection broke before the daemon said how it ended.
    pub(crate) fn broken(mut self, error: Error) -> BuildError {
        self.finish();
        BuildError::Engine(error)
    }
}

impl Step {
    fn parse(name: &str) -> Option<Self> {
        let (bracket, text) = name.strip_prefix('[')?.split_once("] ")?;
        let (number, total) = bracket.rsplit(' ').next()?.split_once('/')?;
        let (number, total) = (number.parse().ok()?, total.parse().ok()?);
        Some(Self { number, total, text: text.to_owned(), is_told: false, tail: VecDeque::new() })
    }
}

/// BuildKit's words in ours. Daemons up to 20.10 say `executor failed running [/bin/sh -c X]: exit code: 7`, later ones
/// `process "/bin/sh -c X" did not complete successfully: exit code: 7`.
fn explain(error: &str) -> String {
    let status = error.rsplit_once("exit code: ").and_then(|(_, status)| status.trim().parse::<u32>().ok());
    match status {
        // 128 and the number of SIGKILL.
        Some(137) => "the command was killed (status 137), which is often a lack of memory".to_owned(),
        Some(status) => format!("the command ended with status {status}"),
        None => missing(error).unwrap_or_else(|| error.to_owned()),
    }
}

/// The words for a secret or an agent that a step needs and that is not given. The daemon says of a secret that it is
/// not found, in words of its own, and of an agent what it was told by us.
fn missing(error: &str) -> Option<String> {
    if let Some((_, id)) = error.strip_suffix(": not found").and_then(|error| error.rsplit_once("secret ")) {
        // Daemons up to 20.10 say it twice.
        return Some(missing_secret(id.strip_suffix(" not found").unwrap_or(id)));
    }
    let (_, told) = error.split_once("desc = ")?;
    told.starts_with("it needs the ssh agent ").then(|| told.to_owned())
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
    use super::*;

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

    #[test]
    fn only_numbered_vertexes_are_steps() {
        let parse = |name: &str| Step::parse(name).map(|step| (step.number, step.total, step.text));
        assert_eq!(parse("[4/7] RUN nginx -t"), Some((4, 7, "RUN nginx -t".into())));
        assert_eq!(parse("[builder 2/3] COPY a b"), Some((2, 3, "COPY a b".into())));
        assert_eq!(parse("[linux/arm64 stage-1 1/2] FROM x"), Some((1, 2, "FROM x".into())));
        for other in
            ["[internal] load remote build context", "[auth] library/x", "copy /context /", "exporting"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn exit_codes_are_read_from_old_and_new_daemons() {
        let new = "process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7";
        let old = "executor failed running [/bin/sh -c exit 7]: exit code: 7";
        assert_eq!(explain(new), "the command ended with status 7");
        assert_eq!(explain(old), "the command ended with status 7");
        assert_eq!(explain("\"/x\" not found"), "\"/x\" not found");
    }

    /// The error of a build in which step 2 failed with `error` after step 3 of another stage was stopped for it.
    fn failure(error: &str, message: &str) -> BuildError {
        let mut progress = Progress::new(std::sync::Arc::new(|_| ()));
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
        let told = failure(error, "failed to solve").to_string();
        assert!(told.starts_with("step 2/3 (RUN x2): the command was killed"), "{told}");
    }

    #[test]
    fn a_full_disk_is_told_as_such_wherever_the_daemon_says_so() {
        let full = "write /var/lib/docker/x: no space left on device";
        assert!(matches!(failure(full, "failed to solve"), BuildError::NoSpace));
        assert!(matches!(failure("", full), BuildError::NoSpace));
    }
}
