//! Plain lines, for pipes, files and CI: nothing moves, and what belongs together stands together.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use imgforge_core::event::{Event, Reporter};

use crate::tell::Teller;
use crate::ticker::Ticker;
use crate::{Options, lock};

/// How long nothing is said before a line says that all is well. CI services end jobs that are silent for minutes.
const SILENCE: Duration = Duration::from_mins(1);
/// How often it is looked whether that time has come.
const LOOK: Duration = Duration::from_secs(5);

/// Writes events as lines. A target's log comes in one piece, under the line that ends the target; the writer gets
/// whole lines in one call each time, so that other programs' output does not get into them.
///
/// Errors of the writer are ignored: a build does not fail because nobody reads about it.
pub struct Lines<W> {
    shared: Arc<Mutex<Inner<W>>>,
    start: Instant,
    _heartbeat: Option<Ticker>,
}

struct Inner<W> {
    teller: Teller,
    out: W,
    /// When something was said last, since the start.
    spoke: Duration,
}

impl<W: Write + Send + 'static> Lines<W> {
    /// Writes to `out`, and once a minute what runs, if nothing else was said and the options are not `quiet`.
    pub fn new(out: W, options: Options) -> Self {
        let inner = Inner { teller: Teller::new(options, true), out, spoke: Duration::ZERO };
        let (shared, start) = (Arc::new(Mutex::new(inner)), Instant::now());
        let heartbeat = (!options.quiet).then(|| {
            let shared = Arc::clone(&shared);
            Ticker::every(LOOK, move || lock(&shared).beat(start.elapsed()))
        });
        Self { shared, start, _heartbeat: heartbeat }
    }
}

impl<W: Write + Send> Reporter for Lines<W> {
    fn event(&mut self, event: &Event) {
        lock(&self.shared).event(event, self.start.elapsed());
    }
}

impl<W: Write> Inner<W> {
    fn event(&mut self, event: &Event, now: Duration) {
        let text = self.teller.tell(event, now);
        self.say(&text, now);
    }

    fn beat(&mut self, now: Duration) {
        if now.saturating_sub(self.spoke) >= SILENCE {
            let text = self.teller.heartbeat(now);
            self.say(&text, now);
        }
    }

    fn say(&mut self, text: &str, now: Duration) {
        if text.is_empty() {
            return;
        }
        self.spoke = now;
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::script;

    /// What is written for `events`, each at its time, with heartbeats looked for every five seconds in between.
    fn written(options: Options, events: &[(Duration, Event)]) -> String {
        let mut inner = Inner { teller: Teller::new(options, true), out: Vec::new(), spoke: Duration::ZERO };
        let mut clock = Duration::ZERO;
        for (at, event) in events {
            while clock + LOOK < *at {
                clock += LOOK;
                inner.beat(clock);
            }
            inner.event(event, *at);
        }
        String::from_utf8(inner.out).unwrap()
    }

    #[test]
    fn a_run_with_a_failure_reads_well() {
        assert_snapshot!(written(Options::default(), &script::failing()));
    }

    #[test]
    fn verbose_shows_every_log_whole_with_names() {
        let options = Options { verbose: true, ..Options::default() };
        assert_snapshot!(written(options, &script::failing()));
    }

    #[test]
    fn quiet_shows_failures_and_the_summary() {
        let options = Options { quiet: true, ..Options::default() };
        assert_snapshot!(written(options, &script::failing()));
    }

    #[test]
    fn quiet_says_nothing_when_all_goes_well() {
        let options = Options { quiet: true, ..Options::default() };
        assert_eq!(written(options, &script::succeeding()), "");
    }

    #[test]
    fn colours_mark_the_words_and_nothing_else() {
        let options = Options { color: true, ..Options::default() };
        let colored = written(options, &script::failing());
        assert_eq!(
            anstream::adapter::strip_str(&colored).to_string(),
            written(Options::default(), &script::failing())
        );
        assert_snapshot!(colored.replace('\x1b', "^"));
    }

    #[test]
    fn an_interrupted_run_says_what_was_cancelled() {
        assert_snapshot!(written(Options::default(), &script::interrupted()));
    }

    #[test]
    fn silence_is_broken_once_a_minute() {
        assert_snapshot!(written(Options::default(), &script::slow()));
    }

    #[test]
    fn a_long_list_of_skipped_images_is_cut_short() {
        assert_snapshot!(written(Options::default(), &script::many_skipped()));
    }

    #[test]
    fn tests_are_told_with_their_targets() {
        assert_snapshot!(written(Options::default(), &script::testing()));
    }

    #[test]
    fn verbose_names_every_test() {
        let options = Options { verbose: true, ..Options::default() };
        assert_snapshot!(written(options, &script::testing()));
    }

    #[test]
    fn the_reporter_itself_writes_what_the_events_say() {
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                lock(&self.0).write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let mut lines = Lines::new(Shared(Arc::clone(&bytes)), Options::default());
        for (_, event) in script::succeeding() {
            lines.event(&event);
        }
        drop(lines);
        let expected = written(Options::default(), &script::succeeding());
        assert_eq!(String::from_utf8(lock(&bytes).clone()).unwrap(), expected);
    }
}
