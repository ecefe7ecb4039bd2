//! Text for people: made harmless, cut to a width, and durations and sizes as they are read.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use imgforge_core::text::is_command as is_unsafe;
use unicode_width::UnicodeWidthChar as _;

/// Makes text of unknown origin safe to print: no control code is left in it, and each leaves a visible trace.
///
/// A tab becomes four spaces. A CSI sequence (ECMA-48 section 5.4: colours, cursor movement) becomes one `␛`, so
/// that coloured logs stay readable. Any other C0 control becomes its picture (`␍`, `␛`, `␇`), a C1 control its
/// number (`<9b>`), and what reorders text or ends a line in Unicode (bidirectional controls, U+2028, U+2029) `�`.
/// What follows an escape that is not CSI stays visible: hiding it would let a log hide what comes after.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(length) = csi_length(rest) {
            out.push('␛');
            rest = &rest[length..];
            continue;
        }
        push_visible(&mut out, c);
        rest = &rest[c.len_utf8()..];
    }
    Cow::Owned(out)
}

/// The colours and weights that this program uses, as anstyle writes them.
const OURS: [&str; 9] = [
    "\u{1b}[0m",
    "\u{1b}[1m",
    "\u{1b}[2m",
    "\u{1b}[31m",
    "\u{1b}[32m",
    "\u{1b}[33m",
    "\u{1b}[34m",
    "\u{1b}[35m",
    "\u{1b}[36m",
];

/// [`clean`] of a text of several lines in which colours stand already: line ends and the few colours stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c == '\n' || !is_unsafe(c);
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c| !is_plain(c)) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let ours = OURS.iter().find(|code| after.starts_with(**code));
        let next = after.chars().next().map_or(0, char::len_utf8);
        let length = ours.map(|code| code.len()).or_else(|| csi_length(after)).unwrap_or(next);
        match ours {
            Some(code) => out.push_str(code),
            None => out.push_str(&clean(&after[..length])),
        }
        rest = &after[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn push_visible(out: &mut String, c: char) {
    match u32::from(c) {
        0x09 => out.push_str("    "),
        // The pictures of C0 are U+2400 to U+241F.
        code @ 0..=0x1f => out.push(char::from_u32(0x2400 + code).unwrap_or('\u{fffd}')),
        0x7f => out.push('␡'),
        code @ 0x80..=0x9f => {
            let _ = write!(out, "<{code:02x}>");
        }
        _ if is_unsafe(c) => out.push('\u{fffd}'),
        _ => out.push(c),
    }
}

/// The length in bytes of the complete CSI sequence that `text` starts with: introducer, parameters 0x30-0x3F,
/// intermediates 0x20-0x2F, one final 0x40-0x7E.
fn csi_length(text: &str) -> Option<usize> {
    let body = text.strip_prefix("\u{1b}[").or_else(|| text.strip_prefix('\u{9b}'))?;
    let bytes = body.as_bytes();
    let parameters = bytes.iter().take_while(|b| (0x30..=0x3f).contains(*b)).count();
    let between = bytes[parameters..].iter().take_while(|b| (0x20..=0x2f).contains(*b)).count();
    let last = parameters + between;
    let ended = bytes.get(last).is_some_and(|b| (0x40..=0x7e).contains(b));
    ended.then_some(text.len() - body.len() + last + 1)
}

/// [`clean`], with every run of white space as one space: the text of a step, which may have several lines.
pub(crate) fn one_line(text: &str) -> String {
    clean(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}

/// `3 packages`, `1 package index`: a plural English noun after its number.
pub(crate) fn counted(count: usize, nouns: &str) -> String {
    let one = match nouns.strip_suffix("xes") {
        Some(stem) => format!("{stem}x"),
        None => nouns.strip_suffix('s').unwrap_or(nouns).to_owned(),
    };
    format!("{count} {}", if count == 1 { &one } else { nouns })
}

/// Columns that `text` takes on a terminal; `text` holds no control codes.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// `text` in at most `columns` columns, with `…` where it was cut.
pub(crate) fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        out.push(c);
    }
    if columns > 0 {
        out.push('…');
    }
    Cow::Owned(out)
}

/// [`cut`], then filled up with spaces to exactly `columns`.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    let mut out = cut(text, columns).into_owned();
    out.extend(std::iter::repeat_n(' ', columns.saturating_sub(width(&out))));
    out
}

/// A duration as people say it: `3 ms`, `21.4 s`, `2 min 05 s`, `1 h 02 min`.
pub fn human_duration(duration: Duration) -> String {
    // Rounded first and split then, so that nothing reads `60.0 s` or `1000 ms`.
    let millis = (duration.as_micros() + 500) / 1000;
    if millis == 0 && !duration.is_zero() {
        return "<1 ms".into();
    }
    if millis < 1000 {
        return format!("{millis} ms");
    }
    let tenths = (millis + 50) / 100;
    if tenths < 600 {
        return format!("{}.{} s", tenths / 10, tenths % 10);
    }
    let seconds = (millis + 500) / 1000;
    if seconds < 3600 {
        return format!("{} min {:02} s", seconds / 60, seconds % 60);
    }
    let minutes = (seconds + 30) / 60;
    format!("{} h {:02} min", minutes / 60, minutes % 60)
}

/// A size in bytes as people say it, in decimal units and about three digits: `512 B`, `1.5 kB`, `58.2 MB`, `127 MB`.
pub fn human_size(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // In tenths of a unit, rounded; what rounds up to 1000 belongs to the next unit.
    let mut unit = 1000_u128;
    for name in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        let tenths = (u128::from(bytes) * 10 + unit / 2) / unit;
        if tenths < 1000 {
            return match tenths % 10 {
                0 => format!("{} {name}", tenths / 10),
                tenth => format!("{}.{tenth} {name}", tenths / 10),
            };
        }
        let whole = (u128::from(bytes) + unit / 2) / unit;
        if whole < 1000 {
            return format!("{whole} {name}");
        }
        unit *= 1000;
    }
    unreachable!("u64 ends at 18 EB")
}

/// What is left of a run, as rough as it is known: `about 40 s left`. Nothing below a second.
pub(crate) fn human_left(left: Duration) -> Option<String> {
    let seconds = left.as_secs();
    match seconds {
        0 => None,
        1..=9 => Some(format!("about {seconds} s left")),
        10..=89 => Some(format!("about {} s left", seconds.div_ceil(5) * 5)),
        _ => Some(format!("about {} min left", (seconds + 30) / 60)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_of_a_kind_is_no_plural() {
        assert_eq!(counted(1, "package indexes"), "1 package index");
        assert_eq!(counted(1, "packages"), "1 package");
        assert_eq!(counted(114, "packages"), "114 packages");
    }

    #[test]
    fn durations_read_as_people_say_them() {
        for (micros, said) in [
            (0, "0 ms"),
            (200, "<1 ms"),
            (3_000, "3 ms"),
            (999_400, "999 ms"),
            (999_600, "1.0 s"),
            (21_449_000, "21.4 s"),
            (59_940_000, "59.9 s"),
            (59_960_000, "1 min 00 s"),
            (125_000_000, "2 min 05 s"),
            (3_599_600_000, "1 h 00 min"),
            (3_725_000_000, "1 h 02 min"),
        ] {
            assert_eq!(human_duration(Duration::from_micros(micros)), said);
        }
    }

    #[test]
    fn sizes_are_decimal_with_about_three_digits() {
        for (bytes, said) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1 kB"),
            (1_500, "1.5 kB"),
            (99_949, "99.9 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1 MB"),
            (58_230_000, "58.2 MB"),
            (99_000_000, "99 MB"),
            (127_400_000, "127 MB"),
            (1_240_000_000, "1.2 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(human_size(bytes), said, "{bytes}");
        }
    }

    #[test]
    fn what_is_left_is_said_roughly() {
        for (seconds, said) in [
            (0, None),
            (4, Some("about 4 s left")),
            (37, Some("about 40 s left")),
            (89, Some("about 90 s left")),
            (170, Some("about 3 min left")),
        ] {
            assert_eq!(human_left(Duration::from_secs(seconds)).as_deref(), said);
        }
    }

    #[test]
    fn control_codes_leave_a_visible_trace() {
        for (raw, shown) in [
            ("plain é 漢", "plain é 漢"),
            ("a\tb", "a    b"),
            ("\x1b[1;31merror\x1b[0m: no", "␛error␛: no"),
            ("\x1b]0;title\x07rest", "␛]0;title␇rest"),
            ("10%\r20%", "10%␍20%"),
            ("\u{9b}2Jx\u{85}y", "␛x<85>y"),
            ("cut \x1b[12", "cut ␛[12"),
            ("\x1b[\x1b[2J", "␛[␛"),
            ("a\u{202e}b\u{2028}c\x7f", "a\u{fffd}b\u{fffd}c␡"),
        ] {
            assert_eq!(clean(raw), shown);
        }
    }

    #[test]
    fn cutting_counts_columns_not_characters() {
        assert_eq!(cut("漢字漢字", 8), "漢字漢字");
        assert_eq!(cut("漢字漢字", 7), "漢字漢…");
        assert_eq!(cut("漢字漢字", 6), "漢字…");
        assert_eq!(cut("abc", 0), "");
        assert_eq!(fit("漢字漢字", 6), "漢字… ");
        assert_eq!(one_line("apt-get \\\n    install"), "apt-get \\ install");
    }

    /// Text with more control codes than chance would put there.
    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            any::<String>(),
            "[\\x00-\\x1f\\x7f-\\x{9f}]{1,4}",
            "\\x1b[\\[\\]PX^_]?[0-9;?]{0,4}[ -~]?",
            "[\\x{2020}-\\x{2070}]",
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn colours_of_our_own_and_lines_stay() {
        let ours = "\u{1b}[1m\u{1b}[32mBuilt\u{1b}[0m a\nb";
        assert!(matches!(printable("plain\nlines é"), Cow::Borrowed(_)));
        assert_eq!(printable(ours), ours);
        assert_eq!(printable("a\u{1b}[8mb\u{1b}[2J\u{1b}]0;x\u{7}\r\u{202e}c\n"), "a␛b␛␛]0;x␇␍\u{fffd}c\n");
    }

    proptest! {
        #[test]
        fn nothing_printable_has_another_control_code(text in hostile()) {
            let mut shown = printable(&text).into_owned();
            for code in OURS {
                shown = shown.replace(code, "");
            }
            prop_assert!(!shown.contains(|c| c != '\n' && is_unsafe(c)), "{shown:?}");
        }

        #[test]
        fn nothing_cleaned_has_a_control_code(text in hostile()) {
            let shown = clean(&text);
            prop_assert!(!shown.contains(is_unsafe), "{shown:?}");
            prop_assert!(matches!(clean(&shown), Cow::Borrowed(_)), "cleaned twice");
        }

        #[test]
        fn what_is_fitted_has_exactly_its_width(text in hostile(), columns in 0_usize..30) {
            prop_assert_eq!(width(&fit(&clean(&text), columns)), columns);
        }
    }
}
