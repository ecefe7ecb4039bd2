//! What each instruction says, before variables count: BuildKit's `frontend/dockerfile/instructions`.

use std::sync::Arc;

use super::RunNetwork;
use super::golang;
use super::mount::RawMount;
use super::read::{self, Flag, Heredoc, Raw, Read};
use crate::{Command, KEYWORDS, ParseProblem};
use imgforge_oci::Healthcheck;
use imgforge_syntax::{Located, Span, nearest};

/// A word whose variables are not expanded, and where it stands.
pub(crate) type Word = Located<String>;

/// One instruction that is understood.
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    /// In capitals.
    pub(crate) keyword: Located<String>,
    /// The line as it is written, continuations joined, without heredocs.
    pub(crate) text: String,
    /// From 1; 0 when it comes from an image below.
    pub(crate) line: usize,
    /// Where problems with it are shown.
    pub(crate) span: Span,
    pub(crate) kind: Kind,
    pub(crate) flags: Vec<Flag>,
    /// What an engine of ours does not do, or does not know, while what it says is understood all the same; or why it
    /// cannot be understood.
    pub(crate) problems: Vec<ParseProblem>,
}

/// What it says.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    From {
        image: Word,
        platform: Option<Word>,
        name: Option<String>,
    },
    Arg(Vec<(String, Option<Word>)>),
    Env(Vec<(Word, Word)>),
    Label(Vec<(Word, Word)>),
    Run(RunLine),
    Copy(CopyLine),
    Workdir(Word),
    User(Word),
    Expose(Vec<Word>),
    Volume(Vec<Word>),
    StopSignal(Word),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    Healthcheck(Healthcheck),
    Maintainer(String),
    Onbuild {
        text: String,
        inner: Box<Instruction>,
    },
    /// What cannot be understood. The keyword is one of those that there are.
    Unread {
        keyword: String,
    },
}

/// RUN.
#[derive(Debug, Clone)]
pub(crate) struct RunLine {
    pub(crate) command: Command,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) mounts: Vec<RawMount>,
    pub(crate) network: Option<Located<RunNetwork>>,
}

/// COPY and ADD.
#[derive(Debug, Clone, Default)]
pub(crate) struct CopyLine {
    pub(crate) is_add: bool,
    pub(crate) from: Option<Word>,
    pub(crate) chown: Option<Word>,
    pub(crate) chmod: Option<Word>,
    pub(crate) checksum: Option<Word>,
    pub(crate) keep_git_dir: Option<Span>,
    pub(crate) unpack: Option<(bool, Span)>,
    pub(crate) link: bool,
    pub(crate) parents: bool,
    pub(crate) excludes: Vec<String>,
    pub(crate) sources: Vec<Word>,
    pub(crate) inline: Vec<Heredoc>,
    pub(crate) target: Option<Word>,
}

/// Something is wrong there.
pub(crate) fn problem(span: Span, message: impl Into<String>, help: Option<&str>) -> ParseProblem {
    ParseProblem { span, message: message.into(), help: help.map(str::to_owned) }
}

/// Why something cannot be evaluated: it is wrong, or (when there are no problems) hangs on an image that has not been
/// seen.
#[derive(Debug, Default)]
pub(crate) struct Missing(pub(crate) Vec<ParseProblem>);

impl From<ParseProblem> for Missing {
    fn from(problem: ParseProblem) -> Self {
        Self(vec![problem])
    }
}

impl Missing {
    /// What hangs on an image that has not been seen.
    pub(crate) fn unknown() -> Self {
        Self::default()
    }

    /// All of `results`, or everything that is wrong with them.
    pub(crate) fn all<T>(results: impl IntoIterator<Item = Result<T, Self>>) -> Result<Vec<T>, Self> {
        let mut values = Vec::new();
        let mut missing: Option<Self> = None;
        for result in results {
            match result {
                Ok(value) => values.push(value),
                Err(found) => missing.get_or_insert_default().0.extend(found.0),
            }
        }
        missing.map_or(Ok(values), Err)
    }
}

type Parsed<T> = Result<T, ParseProblem>;

impl Instruction {
    pub(crate) fn of(raw: &Raw, escape: char) -> Parsed<Self> {
        let mut problems = Vec::new();
        let kind = kind(raw, escape, &mut problems)?;
        Ok(Self { problems, ..Self::with(raw, kind) })
    }

    /// All instructions of a file, those too that cannot be understood.
    pub(crate) fn all(read: &Read) -> Vec<Arc<Self>> {
        let one = |raw: &Raw| {
            Self::of(raw, read.escape).unwrap_or_else(|found| {
                let keyword = raw.inner.as_deref().unwrap_or(raw).keyword.value.clone();
                Self { problems: vec![found], ..Self::with(raw, Kind::Unread { keyword }) }
            })
        };
        read.instructions.iter().map(|raw| Arc::new(one(raw))).collect()
    }

    fn with(raw: &Raw, kind: Kind) -> Self {
        let (keyword, text, flags) = (raw.keyword.clone(), raw.joined.clone(), raw.flags.clone());
        Self { keyword, text, line: raw.line, span: raw.span, kind, flags, problems: Vec::new() }
    }
}

fn kind(raw: &Raw, escape: char, problems: &mut Vec<ParseProblem>) -> Parsed<Kind> {
    let keyword = raw.keyword.value.as_str();
    if !KEYWORDS.contains(&keyword) {
        let help = nearest(keyword, KEYWORDS).map(|near| format!("did you mean {near}?"));
        return Err(problem(raw.keyword.span, format!("there is no instruction {keyword}"), help.as_deref()));
    }
    if raw.rest.is_empty() && !matches!(keyword, "FROM" | "COPY" | "ADD") {
        return Err(problem(raw.span, format!("{keyword} says nothing"), None));
    }
    let mut flags = Flags::new(raw);
    let kind = match keyword {
        "FROM" => from(raw, &mut flags, problems)?,
        "ARG" => args(raw, escape)?,
        "ENV" => Kind::Env(pairs(raw, escape)?),
        "LABEL" => Kind::Label(pairs(raw, escape)?),
        "RUN" => Kind::Run(run(raw, &mut flags, problems)?),
        "COPY" | "ADD" => Kind::Copy(copy(raw, &mut flags)?),
        "WORKDIR" => Kind::Workdir(raw.all()),
        "USER" => Kind::User(raw.all()),
        "STOPSIGNAL" => Kind::StopSignal(raw.all()),
        "EXPOSE" => Kind::Expose(raw.words()),
        "VOLUME" => Kind::Volume(volumes(raw)?),
        "CMD" => Kind::Cmd(command(raw)?),
        "ENTRYPOINT" => Kind::Entrypoint(command(raw)?),
        "SHELL" => Kind::Shell(shell(raw)?),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck(raw, &mut flags)?),
        "MAINTAINER" => Kind::Maintainer(raw.rest.clone()),
        _ => onbuild(raw, escape, problems)?,
    };
    problems.extend(flags.unknown());
    Ok(kind)
}

/// The flags of an instruction; those that nobody has asked for are not known to it.
struct Flags<'a> {
    raw: &'a Raw,
    left: Vec<&'a Flag>,
    known: Vec<&'static str>,
}

impl<'a> Flags<'a> {
    fn new(raw: &'a Raw) -> Self {
        Self { raw, left: raw.flags.iter().collect(), known: Vec::new() }
    }

    /// Every value of a flag that may be repeated; `None` for one without `=`.
    fn all(&mut self, name: &'static str) -> Vec<(Option<String>, &'a Flag)> {
        self.known.push(name);
        let mut found = Vec::new();
        self.left.retain(|flag| {
            let (key, value) = match flag.text().split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (flag.text(), None),
            };
            let is_it = key.strip_prefix("--") == Some(name);
            if is_it {
                found.push((value, *flag));
            }
            !is_it
        });
        found
    }

    fn once(&mut self, name: &'static str) -> Parsed<Option<(Option<String>, &'a Flag)>> {
        let mut all = self.all(name);
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(problem(all[1].1.span, format!("--{name} is said twice"), None)),
        }
    }

    fn value(&mut self, name: &'static str) -> Parsed<Option<Word>> {
        match self.once(name)? {
            None => Ok(None),
            Some((Some(value), flag)) => Ok(Some(Located::new(value, flag.span))),
            Some((None, flag)) => Err(without_value(name, flag.span)),
        }
    }

    /// The same with the place of the value alone.
    fn placed(&mut self, name: &'static str) -> Parsed<Option<Word>> {
        let flag = self.left.iter().copied().find(|flag| flag.text().starts_with(&format!("--{name}=")));
        let word = self.value(name)?;
        Ok(word.zip(flag).map(|(word, flag)| {
            let (len, end) = (word.value.len(), flag.text().len());
            Located::new(word.value, flag.part(end - len, end))
        }))
    }

    fn values(&mut self, name: &'static str) -> Parsed<Vec<Word>> {
        let with_value = |(value, flag): (Option<String>, &Flag)| match value {
            Some(value) => Ok(Located::new(value, flag.span)),
            None => Err(without_value(name, flag.span)),
        };
        self.all(name).into_iter().map(with_value).collect()
    }

    fn switch(&mut self, name: &'static str) -> Parsed<Option<(bool, Span)>> {
        let Some((value, flag)) = self.once(name)? else { return Ok(None) };
        let span = flag.span;
        match value.map(|value| value.to_ascii_lowercase()).as_deref() {
            None | Some("true") => Ok(Some((true, span))),
            Some("false") => Ok(Some((false, span))),
            Some(_) => Err(problem(span, format!("--{name} is true or false"), None)),
        }
    }

    /// The first that is not known.
    fn unknown(self) -> Option<ParseProblem> {
        let flag = self.left.first()?;
        let name = flag.text().split('=').next().unwrap_or_default();
        let near = nearest(name.trim_start_matches('-'), self.known.iter().copied());
        let help = match near {
            Some(near) => format!("did you mean --{near}?"),
            None => "after `--` alone, words that begin with `--` are no flags".into(),
        };
        let message = format!("{} has no flag {name}", self.raw.keyword.value);
        Some(problem(flag.span, message, Some(&help)))
    }
}

fn without_value(name: &str, span: Span) -> ParseProblem {
    problem(span, format!("--{name} needs a value: --{name}=…"), None)
}

fn from(raw: &Raw, flags: &mut Flags<'_>, problems: &mut Vec<ParseProblem>) -> Parsed<Kind> {
    let mut words = raw.words().into_iter();
    let (image, word, name, more) = (words.next(), words.next(), words.next(), words.next());
    let is_as = |word: &Word| word.value.eq_ignore_ascii_case("as");
    let (image, name) = match (image, word, name, more) {
        (Some(image), None, None, None) => (image, None),
        (Some(image), Some(word), Some(name), None) if is_as(&word) => (image, Some(name)),
        _ => {
            let help = Some("FROM [--platform=PLATFORM] IMAGE [AS NAME]");
            return Err(problem(raw.span, "FROM takes one image, and maybe AS and a name", help));
        }
    };
    let name = match name {
        Some(name) => {
            let lower = name.value.to_lowercase();
            let is_name = lower.starts_with(|c: char| c.is_ascii_lowercase())
                && lower.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
            if !is_name {
                let help = Some("it begins with a letter, and has letters, digits, `-`, `_` and `.`");
                problems.push(problem(name.span, format!("{} is no name of a stage", name.value), help));
            }
            Some(lower)
        }
        None => None,
    };
    Ok(Kind::From { image, platform: flags.value("platform")?, name })
}

fn args(raw: &Raw, escape: char) -> Parsed<Kind> {
    let mut args = Vec::new();
    for word in raw.quoted_words(escape) {
        let (name, default) = match word.value.split_once('=') {
            Some((name, default)) => (name.to_owned(), Some(part(&word, default))),
            None => (word.value.clone(), None),
        };
        if name.is_empty() {
            return Err(problem(word.span, "an ARG needs a name before =", None));
        }
        args.push((name, default));
    }
    Ok(Kind::Arg(args))
}

/// The end of a word with its place.
fn part(word: &Word, end: &str) -> Word {
    let (offset, len) = (word.span.offset as usize, word.span.len as usize);
    // A word over several lines keeps its whole place.
    let span =
        if len == word.value.len() { Span::new(offset + len - end.len(), end.len()) } else { word.span };
    Located::new(end.to_owned(), span)
}

/// `NAME=VALUE …`, or `NAME and the rest`.
fn pairs(raw: &Raw, escape: char) -> Parsed<Vec<(Word, Word)>> {
    let keyword = &raw.keyword.value;
    let words = raw.quoted_words(escape);
    if words.first().is_some_and(|first| !first.value.contains('=')) {
        let Some(at) = raw.rest.find(read::is_blank) else {
            let help = format!("{keyword} {}=VALUE", raw.rest);
            return Err(problem(raw.span, format!("{keyword} needs a name and a value"), Some(&help)));
        };
        let name = Located::new(raw.rest[..at].to_owned(), raw.span_of(0, at));
        let from = raw.rest.len() - raw.rest[at..].trim_start_matches(read::is_blank).len();
        let value = Located::new(raw.rest[from..].to_owned(), raw.span_of(from, raw.rest.len()));
        return Ok(vec![(name, value)]);
    }
    let mut pairs = Vec::new();
    for word in words {
        let Some((name, value)) = word.value.split_once('=') else {
            let help = format!("{keyword} NAME=VALUE …; a value with white space stands in quotes");
            return Err(problem(word.span, format!("there is no = in {}", word.value), Some(&help)));
        };
        if name.is_empty() {
            return Err(problem(word.span, format!("{keyword} needs a name before ="), None));
        }
        pairs.push((Located::new(name.to_owned(), word.span), part(&word, value)));
    }
    Ok(pairs)
}

fn json(raw: &Raw, text: &str) -> Parsed<Option<Vec<String>>> {
    read::json(text).map_err(|message| problem(raw.span, message, None))
}

fn command(raw: &Raw) -> Parsed<Command> {
    Ok(match json(raw, &raw.rest)? {
        Some(list) => Command::Exec(list),
        None => Command::Shell(raw.rest.clone()),
    })
}

fn shell(raw: &Raw) -> Parsed<Vec<String>> {
    match json(raw, &raw.rest)? {
        Some(list) if !list.is_empty() => Ok(list),
        _ => {
            let help = Some("SHELL [\"/bin/sh\", \"-c\"]");
            Err(problem(raw.span, "SHELL takes a JSON list of at least one string", help))
        }
    }
}

fn volumes(raw: &Raw) -> Parsed<Vec<Word>> {
    let words = match json(raw, &raw.rest)? {
        Some(list) => raw.placed(list),
        None => raw.words(),
    };
    if words.is_empty() || words.iter().any(|word| word.value.trim().is_empty()) {
        return Err(problem(raw.span, "VOLUME needs paths, and none of them can be empty", None));
    }
    Ok(words.into_iter().map(|word| Located::new(word.value.trim().to_owned(), word.span)).collect())
}

fn run(raw: &Raw, flags: &mut Flags<'_>, problems: &mut Vec<ParseProblem>) -> Parsed<RunLine> {
    let mut mounts = Vec::new();
    for (value, flag) in flags.all("mount") {
        let value = value.ok_or_else(|| without_value("mount", flag.span))?;
        mounts.push(RawMount::of(&value, flag, problems)?);
    }
    let network = match flags.value("network")? {
        None => None,
        Some(word) => {
            let network = match word.value.as_str() {
                "default" => RunNetwork::Default,
                "none" => RunNetwork::None,
                "host" => RunNetwork::Host,
                other => {
                    let help = Some("--network is default, none or host");
                    return Err(problem(word.span, format!("there is no network {other}"), help));
                }
            };
            Some(Located::new(network, word.span))
        }
    };
    if let Some(word) = flags.value("security")?
        && word.value != "sandbox"
    {
        let message = format!("a command cannot run with --security={} here", word.value);
        problems.push(problem(word.span, message, Some("this engine runs every command in its sandbox")));
    }
    if let Some(word) = flags.values("device")?.first() {
        let help = Some("this engine gives no devices to commands");
        problems.push(problem(word.span, "--device is not supported here", help));
    }
    let command = command(raw)?;
    if matches!(&command, Command::Exec(list) if list.is_empty()) {
        return Err(problem(raw.span, "RUN needs a command", None));
    }
    Ok(RunLine { command, heredocs: raw.heredocs.clone(), mounts, network })
}

fn copy(raw: &Raw, flags: &mut Flags<'_>) -> Parsed<CopyLine> {
    let keyword = &raw.keyword.value;
    let is_add = keyword == "ADD";
    let mut line = CopyLine {
        is_add,
        chown: flags.value("chown")?,
        chmod: flags.value("chmod")?,
        link: flags.switch("link")?.is_some_and(|(on, _)| on),
        excludes: flags.values("exclude")?.into_iter().map(|word| word.value).collect(),
        ..CopyLine::default()
    };
    if is_add {
        line.checksum = flags.value("checksum")?;
        line.keep_git_dir = flags.switch("keep-git-dir")?.map(|(_, span)| span);
        line.unpack = flags.switch("unpack")?;
    } else {
        line.from = flags.placed("from")?.filter(|from| !from.value.is_empty());
        line.parents = flags.switch("parents")?.is_some_and(|(on, _)| on);
    }
    let mut words = match json(raw, &raw.rest)? {
        Some(list) => raw.placed(list),
        None => raw.operands(),
    };
    let target = words.pop();
    if words.is_empty() {
        let help = format!("{keyword} SOURCE … TARGET");
        return Err(problem(raw.span, format!("{keyword} needs a source and a target"), Some(&help)));
    }
    if let Some(target) = &target
        && read::heredoc(&target.value).is_ok_and(|heredoc| heredoc.is_some())
    {
        return Err(problem(target.span, "a heredoc cannot be the target", None));
    }
    for word in words {
        match read::heredoc(&word.value) {
            Ok(Some(mark)) => {
                // As BuildKit looks it up: of two of one name the last counts.
                let found = raw.heredocs.iter().rev().find(|heredoc| heredoc.name == mark.name);
                let found = found.ok_or_else(|| {
                    problem(word.span, format!("the heredoc \"{}\" has no content", mark.name), None)
                })?;
                line.inline.push(Heredoc { content: found.content.clone(), ..mark });
            }
            _ => line.sources.push(word),
        }
    }
    line.target = target;
    Ok(line)
}

fn healthcheck(raw: &Raw, flags: &mut Flags<'_>) -> Parsed<Healthcheck> {
    let (kind, rest) = raw.rest.split_once(char::is_whitespace).unwrap_or((&raw.rest, ""));
    let rest = rest.trim_start();
    let mut check = Healthcheck {
        interval: interval(flags, "interval")?,
        timeout: interval(flags, "timeout")?,
        start_period: interval(flags, "start-period")?,
        start_interval: interval(flags, "start-interval")?,
        ..Healthcheck::default()
    };
    if let Some(word) = flags.value("retries")?.filter(|word| !word.value.is_empty()) {
        let retries = word.value.parse::<i32>().ok().and_then(|number| u64::try_from(number).ok());
        let message = format!("{} is no number of retries", word.value);
        check.retries = retries.ok_or_else(|| problem(word.span, message, None))?;
    }
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if rest.is_empty() => {
            return Ok(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() });
        }
        "NONE" => return Err(problem(raw.span, "HEALTHCHECK NONE takes nothing after it", None)),
        "CMD" => match json(raw, rest)? {
            Some(list) if !list.is_empty() => {
                check.test = ["CMD".to_owned()].into_iter().chain(list).collect();
            }
            None if !rest.is_empty() => check.test = vec!["CMD-SHELL".into(), rest.to_owned()],
            _ => return Err(problem(raw.span, "HEALTHCHECK CMD needs a command", None)),
        },
        _ => {
            let help = Some("HEALTHCHECK [FLAGS] CMD COMMAND, or HEALTHCHECK NONE");
            return Err(problem(raw.span, format!("{kind} is no kind of health check"), help));
        }
    }
    Ok(check)
}

/// A time in nanoseconds.
fn interval(flags: &mut Flags<'_>, name: &'static str) -> Parsed<u64> {
    let Some(word) = flags.value(name)?.filter(|word| !word.value.is_empty()) else { return Ok(0) };
    let help = Some("a number with a unit: 500ms, 30s, 1m30s; at least 1ms");
    match golang::duration(&word.value) {
        Some(0) => Ok(0),
        Some(nanos) if nanos >= 1_000_000 => Ok(nanos.unsigned_abs()),
        _ => Err(problem(word.span, format!("{} is no time for --{name}", word.value), help)),
    }
}

fn onbuild(raw: &Raw, escape: char, problems: &mut Vec<ParseProblem>) -> Parsed<Kind> {
    let Some(inner) = raw.inner.as_deref() else {
        return Err(problem(raw.span, "ONBUILD says nothing", None));
    };
    match inner.keyword.value.as_str() {
        "ONBUILD" => return Err(problem(inner.keyword.span, "an ONBUILD cannot hold an ONBUILD", None)),
        keyword @ ("FROM" | "MAINTAINER") => {
            return Err(problem(inner.keyword.span, format!("an ONBUILD cannot hold {keyword}"), None));
        }
        _ => {}
    }
    let mut text = raw.rest.clone();
    for heredoc in &raw.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    let mut inner = Instruction::of(inner, escape)?;
    problems.append(&mut inner.problems);
    Ok(Kind::Onbuild { text, inner: Box::new(inner) })
}
