//! The rows of a terminal that move: a pure function of the run, the time and the terminal's size, so that each
//! moment of it can be tested.

use std::time::Duration;

use crate::run::{Fetch, Running};
use crate::style::word;
use crate::tell::{Teller, doing};
use crate::text::{cut, fit, human_duration, human_left, human_size, one_line, width};

/// Rows do not get wider than this, so that the time at their end stays near their text.
const WIDEST: usize = 100;
/// Columns of the word at the left of a row, with its space.
const WORD: usize = 10;
/// Columns below which a bar says nothing.
const SHORTEST_BAR: usize = 4;
/// The widest that a bar gets.
const LONGEST_BAR: usize = 40;

/// All rows at `now` for a terminal of `columns` and `rows`, one a line: fetches, running targets, and the bar.
/// None has more than `columns - 1` columns (the last one makes some terminals wrap), and there are fewer than `rows`.
pub(crate) fn screen(teller: &Teller, now: Duration, columns: u16, rows: u16) -> String {
    let columns = usize::from(columns).saturating_sub(1).min(WIDEST);
    let run = &teller.run;
    let mut lines: Vec<String> =
        run.fetches.iter().map(|fetch| fetch_row(teller, fetch, now, columns)).collect();
    lines.extend(target_rows(teller, now, columns));

    // One row is the bar's, one the line above that says how much is not shown, one stays free for the cursor.
    let room = usize::from(rows).saturating_sub(3).max(1);
    if lines.len() > room {
        let more = format!("{:WORD$}and {} more", "", lines.len() - room);
        lines.truncate(room);
        lines.push(cut(&more, columns).into_owned());
    }
    if run.to_build > 0 {
        lines.push(total_row(teller, now, columns));
    }
    lines.join("\n")
}

/// ` Building webapp-base    [4/7] nginx -t      6.2 s`
fn target_rows(teller: &Teller, now: Duration, columns: usize) -> Vec<String> {
    let running = &teller.run.running;
    let times: Vec<String> = running.iter().map(|one| ticking(now.saturating_sub(one.since))).collect();
    let time_width = times.iter().map(String::len).max().unwrap_or(0) + 2;
    let room = columns.saturating_sub(WORD + time_width);
    let longest = running.iter().map(|one| one.target.as_str().len()).max().unwrap_or(0);
    let names = longest.clamp(8, 24).min(room / 2);
    let steps = room.saturating_sub(names + 2);
    let text = |(one, time): (&Running, &String)| {
        let name = fit(one.target.as_str(), names);
        let step = fit(one.step.as_deref().unwrap_or(""), steps);
        row(teller, doing(one.activity), &format!("{name}  {step}{time:>time_width$}"), columns)
    };
    running.iter().zip(&times).map(text).collect()
}

/// A time that is still counting, in tenths of a second even below one: milliseconds would only flicker.
fn ticking(time: Duration) -> String {
    match time.as_millis() {
        millis @ 0..1000 => format!("0.{} s", millis / 100),
        _ => human_duration(time),
    }
}

/// ` Fetching packages  ━━━━╸━━━  12.3 MB of 58.2 MB  8.1 MB/s`
fn fetch_row(teller: &Teller, fetch: &Fetch, now: Duration, columns: usize) -> String {
    let what = one_line(&fetch.what);
    let mut figures = human_size(fetch.done);
    if fetch.total > 0 {
        figures = format!("{figures} of {}", human_size(fetch.total));
    }
    let rate = fetch.rate(now).map(|rate| format!(", {}/s", human_size(rate))).unwrap_or_default();
    if WORD + width(&what) + 2 + figures.len() + rate.len() <= columns {
        figures.push_str(&rate);
    }
    let room = columns.saturating_sub(WORD + width(&what) + 2 + figures.len() + 2).min(LONGEST_BAR);
    if fetch.total == 0 || room < SHORTEST_BAR {
        return row(teller, "Fetching", &format!("{what}  {figures}"), columns);
    }
    let bar = bar(teller, fetch.done, fetch.total, room);
    format!("{}{what}  {bar}  {figures}", word(teller.palette.work, "Fetching"))
}

/// `2 waiting  ━━━━━━╸━━━━━━  3/8  about 40 s left`
fn total_row(teller: &Teller, now: Duration, columns: usize) -> String {
    let run = &teller.run;
    let (done, total) = (run.done(), run.to_build);
    let waiting = format!("{:>WORD$}", format!("{} waiting", run.waiting()));
    let left = teller.options.expected.and_then(|all| human_left(all.saturating_sub(now)));
    let mut figures = format!("{done}/{total}");
    if let Some(left) = left
        && width(&waiting) + SHORTEST_BAR + figures.len() + left.len() + 6 <= columns
    {
        figures = format!("{figures}  {left}");
    }
    let room = columns.saturating_sub(width(&waiting) + figures.len() + 4).min(LONGEST_BAR);
    if room < SHORTEST_BAR {
        return cut(&format!("{waiting}  {figures}"), columns).into_owned();
    }
    format!("{waiting}  {}  {figures}", bar(teller, done as u64, total as u64, room))
}

/// A word and text that is cut to what is left of the row.
fn row(teller: &Teller, first: &str, text: &str, columns: usize) -> String {
    if columns <= WORD {
        return cut(&format!("{first:>9} "), columns).into_owned();
    }
    let text = cut(text, columns - WORD);
    format!("{}{}", word(teller.palette.work, first), text.trim_end())
}

/// A bar of `room` columns. Without colours what is done must differ in shape from what is not.
fn bar(teller: &Teller, done: u64, total: u64, room: usize) -> String {
    let share = u128::from(done.min(total)) * room as u128 / u128::from(total.max(1));
    let full = usize::try_from(share).unwrap_or(room).min(room);
    let (work, dim) = (teller.palette.work, teller.palette.dim);
    let rest = if teller.options.color { "━" } else { "·" };
    format!("{work}{}{work:#}{dim}{}{dim:#}", "━".repeat(full), rest.repeat(room - full))
}

#[cfg(test)]
mod tests {
    use imgforge_core::event::Event;
    use proptest::prelude::*;

    use super::*;
    use crate::{Options, script};

    /// The teller after the events up to `now`.
    fn teller_at(now: Duration, events: &[(Duration, Event)], options: Options) -> Teller {
        let mut teller = Teller::new(options, false);
        for (at, event) in events.iter().filter(|(at, _)| *at <= now) {
            teller.tell(event, *at);
        }
        teller
    }

    /// What a screen of `columns` shows at `millis`.
    fn shown(millis: u64, columns: u16) -> String {
        let now = Duration::from_millis(millis);
        let options = Options { expected: Some(Duration::from_secs(45)), ..Options::default() };
        screen(&teller_at(now, &script::failing(), options), now, columns, 24)
    }

    #[test]
    fn fetching_and_building_fit_a_usual_terminal() {
        let moments = [1_600, 23_000, 30_100].map(|millis| shown(millis, 80));
        insta::assert_snapshot!(moments.join("\n----\n"));
    }

    #[test]
    fn a_row_says_which_test_runs() {
        let now = Duration::from_millis(5_500);
        let teller = teller_at(now, &script::testing(), Options::default());
        insta::assert_snapshot!(screen(&teller, now, 80, 24));
    }

    #[test]
    fn a_narrow_terminal_drops_what_matters_least() {
        let moments = [1_600, 23_000, 30_100].map(|millis| shown(millis, 40));
        insta::assert_snapshot!(moments.join("\n----\n"));
    }

    #[test]
    fn more_rows_than_a_terminal_has_are_counted() {
        let mut events = vec![(Duration::ZERO, Event::Started { to_build: 9, fresh: 0, slots: 9 })];
        events.extend((1..=9).map(|n| (Duration::ZERO, script::started(&format!("app-{n}")))));
        let now = Duration::from_secs(2);
        insta::assert_snapshot!(screen(&teller_at(now, &events, Options::default()), now, 60, 8));
    }

    proptest! {
        #[test]
        fn no_row_is_as_wide_as_the_terminal_and_the_screen_not_as_high(
            millis in 0_u64..34_000,
            columns in 1_u16..150,
            rows in 4_u16..30,
            text in "[a-z漢字\\x00-\\x1f ]{0,60}",
        ) {
            let now = Duration::from_millis(millis);
            let mut events = script::failing();
            events.insert(1, (Duration::ZERO, script::started("an-image/with-a-rather-long-name.of-its-own")));
            let odd = script::step("an-image/with-a-rather-long-name.of-its-own", 1, 2, &text);
            events.insert(2, (Duration::ZERO, odd));
            let shown = screen(&teller_at(now, &events, Options::default()), now, columns, rows);
            prop_assert!(shown.lines().count() < usize::from(rows));
            for line in shown.lines() {
                prop_assert!(width(line) < usize::from(columns), "{line:?}");
            }
        }
    }
}
