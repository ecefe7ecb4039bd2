//! What Go's library does to paths, durations, sizes and quoted text: BuildKit writes these into images.

use std::fmt::Write as _;

/// `path.Clean`: without `.`, `//` and what `..` takes away.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

/// `path.Join`: empty parts do not count.
pub(super) fn join(above: &str, path: &str) -> String {
    match (above, path) {
        ("", "") => String::new(),
        ("", one) | (one, "") => clean(one),
        _ => clean(&format!("{above}/{path}")),
    }
}

/// `path.Base`.
pub(super) fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        _ if path.is_empty() => ".",
        Some(name) if !name.is_empty() => name,
        _ => "/",
    }
}

/// `%q` of a list of strings: `["a" "b"]`.
pub(super) fn quoted_list(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(" "))
}

/// `strconv.Quote`.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_printed(c) => out.push(c),
            c if u32::from(c) < 0x80 => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => drop(write!(out, "\\U{:08x}", u32::from(c))),
        }
    }
    out + "\""
}

/// Go's `IsPrint`, as far as the standard library can tell: unassigned characters count as printed.
fn is_printed(c: char) -> bool {
    let is_format = matches!(u32::from(c),
        0xAD | 0x600..=0x605 | 0x61C | 0x6DD | 0x70F | 0x180E | 0x200B..=0x200F | 0x202A..=0x202E
        | 0x2060..=0x206F | 0xE000..=0xF8FF | 0xFEFF | 0xFFF9..=0xFFFF | 0xE_0000..=0x10_FFFF);
    c == ' ' || !(c.is_control() || c.is_whitespace() || is_format)
}

/// `time.ParseDuration`, in nanoseconds: `1m30s`, `500ms`, `-1.5h`, `0`.
pub(super) fn duration(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if unsigned == "0" {
        return Some(0);
    }
    let mut rest = unsigned;
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, mut after) = rest.split_at(whole);
        let mut fraction = "";
        if let Some(behind) = after.strip_prefix('.') {
            let len = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
            (fraction, after) = behind.split_at(len);
        }
        if digits.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_len = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        // 18 digits are far below a nanosecond, whatever the unit.
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            total += fraction.parse::<i128>().ok()? * unit / 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        }
        rest = next;
    }
    (!unsigned.is_empty()).then(|| i64::try_from(if negative { -total } else { total }).ok()).flatten()
}

/// `Duration.String`, of nanoseconds: `1m30s`, `1.5s`, `0s`.
pub(super) fn duration_text(nanos: u64) -> String {
    let part = |unit: u64, name: &str| {
        let digits = unit.to_string().len() - 1;
        let fraction = if digits == 0 { String::new() } else { format!(".{:0digits$}", nanos % unit) };
        format!("{}{}{name}", nanos / unit, fraction.trim_end_matches('0').trim_end_matches('.'))
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => part(1, "ns"),
        1_000..1_000_000 => part(1_000, "µs"),
        1_000_000..1_000_000_000 => part(1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = duration_seconds(nanos % 60_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// Less than a minute as seconds.
fn duration_seconds(nanos: u64) -> String {
    let fraction = format!(".{:09}", nanos % 1_000_000_000);
    format!("{}{}s", nanos / 1_000_000_000, fraction.trim_end_matches('0').trim_end_matches('.'))
}

/// `units.RAMInBytes`: `64m`, `1.5GiB`, `100`; powers of 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, unit) = (text[..=end].strip_suffix(' ').unwrap_or(&text[..=end]), &text[end + 1..]);
    let number: f64 = number.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    let unit = unit.to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number * 1024_f64.powi(power);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in the range of i64")]
    (bytes < 9.2e18).then_some(bytes as u64)
}
