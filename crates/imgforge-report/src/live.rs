//! A terminal: what is done scrolls up as lines, what runs moves below them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use console::Term;
use imgforge_core::event::{Event, Reporter};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::screen::screen;
use crate::tell::Teller;
use crate::ticker::Ticker;
use crate::{Options, lock};

/// How often the rows are drawn; events alone draw nothing unless they leave a line.
const FRAME: Duration = Duration::from_millis(100);

/// Columns from which figures are put in columns; on less they just follow the name.
const ROOMY: u16 = 72;

/// Shows events on a terminal: a row for each target that is being built and each fetch, a bar for all, and lines
/// above for what is done. The rows are gone when the run is over or interrupted, and when this is dropped.
pub struct Live {
    shared: Arc<Mutex<Inner<Term>>>,
    start: Instant,
    _frames: Ticker,
}

/// `T` is the terminal; clones of it are the same terminal.
struct Inner<T> {
    teller: Teller,
    term: T,
    /// All rows as one message: indicatif draws and clears them, [`screen`] says what they are.
    rows: ProgressBar,
    closed: bool,
}

impl Live {
    /// Shows a run on the terminal that is stderr.
    pub fn new(options: Options) -> Self {
        let shared = Arc::new(Mutex::new(Inner::new(Term::stderr(), options)));
        let start = Instant::now();
        let frames = Ticker::every(FRAME, {
            let shared = Arc::clone(&shared);
            move || lock(&shared).draw(start.elapsed())
        });
        Self { shared, start, _frames: frames }
    }
}

impl Reporter for Live {
    fn event(&mut self, event: &Event) {
        lock(&self.shared).event(event, self.start.elapsed());
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        lock(&self.shared).close();
    }
}

impl<T: TermLike + Clone + 'static> Inner<T> {
    fn new(term: T, options: Options) -> Self {
        // No limit of indicatif's own: the frames are the limit, and a drawing that is left out would stay out.
        let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
        let style = ProgressStyle::with_template("{msg}").expect("the template is fixed");
        let rows = ProgressBar::with_draw_target(None, target).with_style(style);
        Self { teller: Teller::new(options, false), term, rows, closed: false }
    }

    fn event(&mut self, event: &Event, now: Duration) {
        self.teller.compact = self.term.width() < ROOMY;
        let text = self.teller.tell(event, now);
        if matches!(event, Event::Interrupted | Event::Finished { .. }) {
            // After an interrupt the program may end at any moment, so nothing is drawn that would stay behind.
            self.close();
        }
        if text.is_empty() {
            return;
        }
        if self.closed {
            self.write(&text);
        } else {
            // First the rows as they are now: what has ended must not be seen below the line that says so. Then the
            // lines, not through indicatif's own `println`: it fills them with spaces, which wrap when the window
            // gets narrower.
            self.draw(now);
            self.rows.suspend(|| self.write(&text));
        }
    }

    fn draw(&mut self, now: Duration) {
        if !self.closed {
            self.rows.set_message(screen(&self.teller, now, self.term.width(), self.term.height()));
        }
    }

    /// Takes the rows away for good.
    fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.rows.finish_and_clear();
        }
    }

    /// Writes lines where the rows were. A terminal that is gone is no reason to stop a build.
    fn write(&self, text: &str) {
        for line in text.lines() {
            let _ = self.term.write_line(line);
        }
        let _ = self.term.flush();
    }
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;
    use insta::assert_snapshot;

    use super::*;
    use crate::script::{self, Script};

    /// What is on the terminal after the events up to `until`, with the frames in between drawn.
    fn terminal_at(until: u64, columns: u16, script: Script) -> String {
        let term = InMemoryTerm::new(40, columns);
        let options = Options { expected: Some(Duration::from_secs(45)), ..Options::default() };
        let mut inner = Inner::new(term.clone(), options);
        let until = Duration::from_millis(until);
        let mut clock = Duration::ZERO;
        for (at, event) in script.iter().filter(|(at, _)| *at <= until) {
            while clock < *at {
                clock += FRAME;
                inner.draw(clock);
            }
            inner.event(event, *at);
        }
        inner.draw(until);
        // Read before `inner` is dropped: that takes the rows away.
        term.contents()
    }

    #[test]
    fn rows_move_below_the_lines_of_what_is_done() {
        assert_snapshot!(terminal_at(30_200, 80, script::failing()));
    }

    #[test]
    fn a_narrow_terminal_has_whole_lines_too() {
        assert_snapshot!(terminal_at(30_200, 40, script::failing()));
    }

    #[test]
    fn nothing_that_moved_is_left_at_the_end() {
        let shown = terminal_at(60_000, 80, script::failing());
        assert!(!shown.contains("waiting") && !shown.contains("Building"), "{shown}");
        assert_snapshot!(shown);
    }

    #[test]
    fn an_interrupt_takes_the_rows_away_at_once() {
        let shown = terminal_at(2_050, 80, script::interrupted());
        assert_snapshot!(shown, @" Stopping what runs is being cancelled; Ctrl-C again quits at once");
    }

    #[test]
    fn fetches_have_a_bar() {
        assert_snapshot!(terminal_at(1_600, 80, script::failing()));
    }
}
