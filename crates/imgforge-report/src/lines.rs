//! Plain lines, for pipes, logs and CI: each event that matters is a line, and a long silence is broken by a sign of life.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use imgforge_core::event::{Event, Reporter};
use imgforge_core::name::ImageName;

use crate::Options;
use crate::style::{Palette, word};
use crate::tell;
use crate::text::{cut, human_duration, one_line};
use crate::ticker::Ticker;

/// After this long without a word, who runs is said.
const SILENCE: Duration = Duration::from_secs(60);

/// Writes events as lines.
pub struct Lines {
    state: Arc<Mutex<State>>,
    _heartbeat: Ticker,
}

struct State {
    out: Box<dyn Write + Send>,
    options: Options,
    running: BTreeMap<ImageName, Running>,
    spoke: Instant,
}

/// A target that is being built.
struct Running {
    since: Instant,
    step: Option<(usize, usize, String)>,
}

impl Lines {
    /// Lines to `out`.
    pub fn new(out: impl Write + Send + 'static, options: Options) -> Self {
        let state = State { out: Box::new(out), options, running: BTreeMap::new(), spoke: Instant::now() };
        let state = Arc::new(Mutex::new(state));
        let beating = Arc::clone(&state);
        let heartbeat =
            Ticker::every(Duration::from_secs(1), move || lock(&beating).break_silence(Instant::now()));
        Self { state, _heartbeat: heartbeat }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reporter for Lines {
    fn event(&mut self, event: &Event) {
        lock(&self.state).event(event);
    }
}

impl State {
    fn event(&mut self, event: &Event) {
        match event {
            Event::TargetStarted { target } => {
                self.running.insert(target.clone(), Running { since: Instant::now(), step: None });
            }
            Event::Step { target, number, total, text, .. } => {
                if let Some(running) = self.running.get_mut(target) {
                    running.step = Some((*number, *total, one_line(text)));
                }
            }
            Event::TargetFinished { target, .. } => drop(self.running.remove(target)),
            _ => {}
        }
        if let Some(line) = tell::line(event, self.options) {
            self.say(&line);
        }
    }

    fn say(&mut self, line: &str) {
        self.spoke = Instant::now();
        // A reader that has gone away is no reason to stop a build.
        let _ = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
    }

    fn break_silence(&mut self, now: Instant) {
        if self.options.quiet || self.running.is_empty() || now.duration_since(self.spoke) < SILENCE {
            return;
        }
        let palette = Palette::new(self.options.color);
        let lines: Vec<String> = self
            .running
            .iter()
            .map(|(target, running)| {
                let step = running.step.as_ref().map_or(String::new(), |(number, total, text)| {
                    format!("  [{number}/{total}] {}", cut(text, 60))
                });
                let took = human_duration(now.duration_since(running.since));
                format!("{}{target}  {took}{step}", word(palette.work, "Building"))
            })
            .collect();
        self.say(&lines.join("\n"));
    }
}
