//! Reads `test "NAME" { ... }`.

use imgforge_syntax::Located;

use super::{Check, CommandCheck, DEFAULT_TIMEOUT, FileCheck, FileKind, HttpCheck, Test, UserCheck};
use crate::diagnostic::Problem;
use crate::manifest::image::{account, octal};
use crate::manifest::reader::Node;
use crate::manifest::service::absolute;

/// What may stand in a test, in the order of the reference.
pub(in crate::manifest) const IN_TEST: &[&str] = &[
    "http",
    "tcp",
    "command",
    "file",
    "user",
    "env",
    "size",
    "no-setuid",
    "packages-as-locked",
    "healthy",
    "stops",
];

/// What stands for the container's address.
const CONTAINER: &str = "{container}";

pub(in crate::manifest) fn test(mut node: Node<'_, '_, '_>) -> Option<Test> {
    let span = node.span();
    let name = if node.has_argument() { Some(node.string("the test's name")) } else { None };
    let enabled = node.flag_property("enabled").is_none_or(|enabled| enabled.value);
    let inherit = node.flag_property("inherit");
    let timeout = positive(&mut node, "timeout").unwrap_or(DEFAULT_TIMEOUT);
    let start = node.flag_property("start");
    let reader = node.reader;
    let (mut checks, mut count) = (Vec::new(), 0);
    for kdl in node.children() {
        count += 1;
        let mut child = reader.node(kdl);
        let span = child.span();
        if !IN_TEST.contains(&child.name()) {
            reader.unknown(child.name_span(), "check", child.name(), IN_TEST);
            continue;
        }
        checks.extend(check(&mut child).map(|check| Located::new(check, span)));
        child.done();
    }
    node.done();
    let has_name = name.is_some();
    // A name that is none has been told of.
    let name = match name {
        Some(name) => Some(name?),
        None => None,
    };
    if let Some(inherit) = inherit.as_ref().filter(|inherit| inherit.value && !has_name) {
        let message = "a test that what stands on this image inherits needs a name";
        let problem = Problem::at(reader.file, inherit.span, message, "by which a child can switch it off");
        reader.push(problem.help("for example: test \"starts\" inherit=#true { ... }"));
    }
    match (enabled, count) {
        (true, 0) => {
            let problem = Problem::at(reader.file, span, "the test checks nothing", "a check is expected");
            reader.push(problem.help(format!("checks are: {}", IN_TEST.join(", "))));
        }
        (false, 1..) => {
            let message = "a test that is switched off checks nothing";
            let problem = Problem::at(reader.file, span, message, "enabled=#false with checks");
            reader.push(problem.help(
                "to leave out a parent's test: test \"NAME\" enabled=#false; to leave out an own one: take it away",
            ));
        }
        (false, 0) if !has_name => {
            let problem = Problem::at(reader.file, span, "which test is switched off?", "a name is expected");
            reader.push(problem.help("for example: test \"starts\" enabled=#false"));
        }
        _ => {}
    }
    let inherit = inherit.is_some_and(|inherit| inherit.value);
    Some(Test { span, name, enabled, inherit, timeout, start, checks })
}

fn check(node: &mut Node<'_, '_, '_>) -> Option<Check> {
    Some(match node.name() {
        "http" => Check::Http(http(node)?),
        "tcp" => {
            let port = port(node);
            let within = positive(node, "within");
            Check::Tcp { port: port?, within }
        }
        "command" => Check::Command(command(node)?),
        "file" => Check::File(file(node)?),
        "user" => Check::User(user(node)?),
        "env" => env(node)?,
        "size" => size(node)?,
        "no-setuid" => {
            let paths = node.strings("a path", 0);
            let but = paths.into_iter().filter_map(|path| absolute(node, path)).map(|path| path.value);
            Check::NoSetuid { but: but.collect() }
        }
        "packages-as-locked" => Check::PackagesAsLocked,
        "healthy" => Check::Healthy { within: positive(node, "within") },
        _ => {
            let within = positive(node, "within");
            let code = code(node, "code");
            Check::Stops { within, code: code? }
        }
    })
}

/// A time that is more than none.
fn positive(node: &mut Node<'_, '_, '_>, name: &'static str) -> Option<crate::manifest::Millis> {
    let time = node.time_property(name)?;
    if time.0 == 0 {
        node.problem(node.span(), format!("{name} is no time at all"), "a time is expected");
        return None;
    }
    Some(time)
}

/// An exit code, 0 when none is given.
fn code(node: &mut Node<'_, '_, '_>, name: &'static str) -> Option<i64> {
    if !node.has_property(name) {
        return Some(i64::from(node.number_property(name).map_or(0, |code| code.value)));
    }
    let code = node.number_property(name)?;
    if code.value > 255 {
        node.problem(code.span, format!("{name} is not an exit code"), "from 0 to 255");
        return None;
    }
    Some(i64::from(code.value))
}

fn http(node: &mut Node<'_, '_, '_>) -> Option<HttpCheck> {
    let url = node.string("an address").and_then(|url| {
        let rest = url.value.strip_prefix("http://").and_then(|rest| rest.strip_prefix(CONTAINER));
        let is_good = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/', '?']))
            && !url.value.contains(|c: char| c.is_whitespace() || c.is_control());
        if !is_good {
            let message = "the address is not one of the container";
            let problem =
                Problem::at(node.reader.file, url.span, message, "http://{container}... is expected");
            node.reader
                .push(problem.help("for example: http \"http://{container}:8080/healthz\" status=200"));
        }
        is_good.then_some(url.value)
    });
    let status = node.number_property("status").and_then(|status| {
        let number = u16::try_from(status.value).ok().filter(|number| (100..=599).contains(number));
        if number.is_none() {
            node.problem(status.span, "status is not an HTTP status", "from 100 to 599");
        }
        number
    });
    let contains = node.text_property("contains").map(|text| text.value);
    let within = positive(node, "within");
    Some(HttpCheck { url: url?, status, contains, within })
}

fn port(node: &mut Node<'_, '_, '_>) -> Option<u16> {
    let mut words = node.text_or_number("a port").into_iter();
    let word = words.next()?;
    for extra in words {
        node.problem(extra.span, "\"tcp\" takes one port", "one too many");
    }
    let port = word.value.parse::<u16>().ok().filter(|port| *port > 0);
    if port.is_none() {
        node.problem(word.span, format!("\"{}\" is no port", word.value), "a number from 1 to 65535");
    }
    port
}

fn command(node: &mut Node<'_, '_, '_>) -> Option<CommandCheck> {
    let argv = node.words("a program", 1);
    let exit = code(node, "exit");
    let mut text = |name| node.maybe_empty_property(name).map(|text| text.value);
    let (stdout, stdout_contains) = (text("stdout"), text("stdout-contains"));
    let (stderr, stderr_contains) = (text("stderr"), text("stderr-contains"));
    let user = node.text_property("user").and_then(|user| account(node, user)).map(|user| user.value);
    let exit = exit?;
    (!argv.is_empty()).then_some(CommandCheck {
        argv,
        exit,
        stdout,
        stdout_contains,
        stderr,
        stderr_contains,
        user,
    })
}

fn file(node: &mut Node<'_, '_, '_>) -> Option<FileCheck> {
    let span = node.span();
    let path = node.string("a path").and_then(|path| absolute(node, path));
    let absent = node.flag_property("absent").is_some_and(|absent| absent.value);
    let kind = node.text_property("type").and_then(|word| {
        let kind = FileKind::ALL.into_iter().find(|kind| kind.as_str() == word.value);
        if kind.is_none() {
            node.reader.unknown(word.span, "type of file", &word.value, &FileKind::ALL.map(FileKind::as_str));
        }
        kind
    });
    let mode = node.text_property("mode").and_then(|mode| octal(node, mode)).map(|mode| mode.value);
    let owner = node.text_property("owner").and_then(|owner| account(node, owner)).map(|owner| owner.value);
    let contains = node.text_property("contains").map(|text| text.value);
    let sha256 = node.text_property("sha256").and_then(|sum| {
        let is_sum = sum.value.len() == 64 && sum.value.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_sum {
            node.problem(sum.span, "sha256 is not a SHA-256 sum", "64 hex digits are expected");
        }
        is_sum.then(|| sum.value.to_ascii_lowercase())
    });
    let says_more =
        kind.is_some() || mode.is_some() || owner.is_some() || contains.is_some() || sha256.is_some();
    if absent && says_more {
        let message = "of a file that is absent nothing else can be asked";
        node.problem(span, message, "absent=#true and more");
        return None;
    }
    if kind.is_some_and(|kind| kind != FileKind::File) && (contains.is_some() || sha256.is_some()) {
        let message = format!("a {} has no content", kind.map_or("", FileKind::as_str));
        node.problem(span, message, "contains= and sha256= are for files");
        return None;
    }
    Some(FileCheck { path: path?.value, absent, kind, mode, owner, contains, sha256 })
}

fn user(node: &mut Node<'_, '_, '_>) -> Option<UserCheck> {
    let name = node.string("the user's name");
    let uid = node.number_property("uid").map(|uid| uid.value);
    let gid = node.number_property("gid").map(|gid| gid.value);
    let home = node.text_property("home").and_then(|home| absolute(node, home)).map(|home| home.value);
    let shell = node.text_property("shell").and_then(|shell| absolute(node, shell)).map(|shell| shell.value);
    Some(UserCheck { name: name?.value, uid, gid, home, shell })
}

fn env(node: &mut Node<'_, '_, '_>) -> Option<Check> {
    let span = node.span();
    let name = node.string("the variable's name");
    let had_value = node.has_argument();
    let value = node.value().map(|value| value.value);
    let absent = node.flag_property("absent").is_some_and(|absent| absent.value);
    if absent && had_value {
        node.problem(span, "a variable that is absent has no value", "a value and absent=#true");
        return None;
    }
    if had_value && value.is_none() {
        return None;
    }
    Some(Check::Env { name: name?.value, value, absent })
}

fn size(node: &mut Node<'_, '_, '_>) -> Option<Check> {
    let span = node.span();
    let Some(word) = node.text_or_number_property("max") else {
        if !node.has_property("max") {
            let problem = Problem::at(node.reader.file, span, "\"size\" lacks max=", "max= is expected");
            node.reader.push(problem.help("for example: size max=\"120MB\""));
        }
        return None;
    };
    let max = decimal_size(&word.value).filter(|max| *max > 0);
    if max.is_none() {
        let problem = Problem::at(node.reader.file, word.span, "max is not a size", "not a size");
        node.reader.push(problem.help("a number and a unit: \"900KB\", \"120MB\", \"1.5GB\""));
    }
    Some(Check::Size { max: max? })
}

/// `1000`, `64KB`, `120MB`, `1.5GB`: powers of 1000, as `docker images` and imgforge show images' sizes.
fn decimal_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit: u64 = match &text[digits..] {
        "" | "B" => 1,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    let (whole, part) = text[..digits].split_once('.').unwrap_or((&text[..digits], "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_digits(whole) || !is_digits(part) || part.len() > 3 {
        return None;
    }
    let thousandths: u64 = format!("{part:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(thousandths * unit / 1000)
}

#[cfg(test)]
mod tests {
    use super::decimal_size;

    #[test]
    fn sizes_are_those_that_people_read_of_images() {
        assert_eq!(decimal_size("120MB"), Some(120_000_000));
        assert_eq!(decimal_size("1.5GB"), Some(1_500_000_000));
        assert_eq!(decimal_size("900"), Some(900));
        for wrong in
            ["", "MB", "1.MB", ".5MB", "1.2345MB", "1 MB", "-1MB", "1TB", "1.5.5MB", "99999999999999GB"]
        {
            assert_eq!(decimal_size(wrong), None, "{wrong}");
        }
    }
}
