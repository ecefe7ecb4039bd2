//! A terminal: finished targets become lines, and below them one row moves for each that is being built, and a bar.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use imgforge_core::event::{Event, Reporter};
use imgforge_core::name::ImageName;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Options;
use crate::style::{Palette, word};
use crate::tell;
use crate::text::{cut, fit, human_duration, human_size, one_line, width};

/// How often rows are drawn anew while nothing happens.
const REDRAW: Duration = Duration::from_millis(100);

/// Columns of a row's name.
const NAME: usize = 20;

/// Rows that move.
pub struct Live {
    rows: MultiProgress,
    options: Options,
    columns: Box<dyn Fn() -> usize + Send>,
    running: BTreeMap<ImageName, Row>,
    bar: Option<ProgressBar>,
    fetching: Option<ProgressBar>,
    to_build: usize,
    ended: usize,
}

struct Row {
    bar: ProgressBar,
    since: Instant,
    step: String,
}

impl Live {
    /// Rows on stderr.
    pub fn new(options: Options) -> Self {
        let columns =
            || console::Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        Self::on(ProgressDrawTarget::stderr_with_hz(10), Box::new(columns), options)
    }

    pub(crate) fn on(
        target: ProgressDrawTarget,
        columns: Box<dyn Fn() -> usize + Send>,
        options: Options,
    ) -> Self {
        Self {
            rows: MultiProgress::with_draw_target(target),
            options,
            columns,
            running: BTreeMap::new(),
            bar: None,
            fetching: None,
            to_build: 0,
            ended: 0,
        }
    }

    /// A line above the rows.
    fn say(&self, line: &str) {
        // A terminal that has gone away is no reason to stop a build.
        let _ = self.rows.println(line);
    }

    fn start(&mut self, target: &ImageName) {
        let bar = ProgressBar::new_spinner().with_style(plain("{msg}"));
        let bar = match &self.bar {
            Some(last) => self.rows.insert_before(last, bar),
            None => self.rows.add(bar),
        };
        let row = Row { bar, since: Instant::now(), step: String::new() };
        self.running.insert(target.clone(), row);
        self.redraw();
    }

    fn finish(&mut self, target: &ImageName) {
        self.ended += 1;
        if let Some(row) = self.running.remove(target) {
            row.bar.finish_and_clear();
            self.rows.remove(&row.bar);
        }
        self.redraw();
    }

    /// Writes every row anew: the times have moved.
    fn redraw(&self) {
        let palette = Palette::new(self.options.color);
        let columns = (self.columns)();
        for (target, row) in &self.running {
            let took = human_duration(Duration::from_secs(row.since.elapsed().as_secs()));
            row.bar.set_message(self.row(&palette, target, &row.step, &took, columns));
        }
        if let Some(bar) = &self.bar {
            let waiting = self.to_build.saturating_sub(self.ended + self.running.len());
            bar.set_position(self.ended as u64);
            bar.set_message(format!("{waiting:>9} waiting "));
        }
    }

    /// `Building webapp-base   [4/7] nginx -t      6 s`, never wider than the terminal.
    fn row(&self, palette: &Palette, target: &ImageName, step: &str, took: &str, columns: usize) -> String {
        let head = word(palette.work, "Building");
        let left = columns.saturating_sub(10 + width(took) + 3);
        let name = fit(target.as_str(), NAME.min(left));
        let rest = left.saturating_sub(width(&name));
        let text = if rest > 2 { format!(" {}", fit(step, rest - 1)) } else { fit("", rest) };
        format!("{head}{name}{text}  {took}")
    }

    fn begin(&mut self, to_build: usize) {
        self.to_build = to_build;
        let style = plain("{msg}{wide_bar} {pos}/{len}").progress_chars("━╸─");
        let bar = self.rows.add(ProgressBar::new(to_build as u64).with_style(style));
        bar.enable_steady_tick(REDRAW);
        self.bar = Some(bar);
        self.redraw();
    }

    fn fetch(&mut self, what: &str, done: u64, total: u64) {
        let bar = self.fetching.get_or_insert_with(|| {
            let style = plain("{msg}{wide_bar} {prefix}").progress_chars("━╸─");
            self.rows.add(ProgressBar::new(total.max(1)).with_style(style))
        });
        let palette = Palette::new(self.options.color);
        bar.set_length(total.max(done).max(1));
        bar.set_position(done);
        bar.set_prefix(format!("{} of {}", human_size(done), human_size(total)));
        bar.set_message(format!("{}{what} ", word(palette.work, "Fetching")));
    }

    fn clear(&mut self) {
        for bar in
            self.running.values().map(|row| &row.bar).chain(self.bar.iter()).chain(self.fetching.iter())
        {
            bar.finish_and_clear();
        }
        self.running.clear();
        (self.bar, self.fetching) = (None, None);
    }
}

fn plain(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("our own templates are right")
}

impl Reporter for Live {
    fn event(&mut self, event: &Event) {
        if let Some(line) = tell::line(event, self.options) {
            self.say(&line);
        }
        match event {
            Event::Started { to_build, .. } => self.begin(*to_build),
            Event::Fetching { what, done, total } => self.fetch(what, *done, *total),
            Event::Fetched { .. } => {
                if let Some(bar) = self.fetching.take() {
                    bar.finish_and_clear();
                }
            }
            Event::TargetStarted { target } => self.start(target),
            Event::Step { target, number, total, text, .. } => {
                if let Some(row) = self.running.get_mut(target) {
                    row.step = format!("[{number}/{total}] {}", cut(&one_line(text), 200));
                }
                self.redraw();
            }
            Event::TargetFinished { target, .. } => self.finish(target),
            Event::Finished { .. } => self.clear(),
            Event::Log { .. } => self.redraw(),
            Event::Warning { .. } | Event::Interrupted => {}
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.clear();
    }
}
