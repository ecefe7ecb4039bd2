//! Evaluates a stage: what each instruction does when everything below it is known. The rules are those of BuildKit's
//! `frontend/dockerfile/dockerfile2llb`.
//!
//! The same code looks over a file before anything is built. What depends on an image that has not been seen is then
//! left out, and what is wrong whatever that image says is found.

use super::instruction::{CopyLine, Instruction, Kind, Missing, RunLine, Word, problem};
use super::mount::Place;
use super::read;
use super::shell::{self, NoValue, Rules, Value};
use super::{
    Action, Base, Below, Copy, CopySource, From, Mount, MountKind, Program, Run, Stage, Step, golang, signal,
};
use crate::diagnostic::Span;
use crate::dockerfile::{Command, ParseProblem};
use crate::image_config::{Empty, ImageConfig, RootFs};

/// The PATH of an image that has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Build arguments that are no variables of commands.
const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Build arguments that commands get without an ARG, in the order in which BuildKit gives them.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// What holds at one point of a stage, beside the configuration. A stage that stands on another begins with its scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// ENVs and ARGs, the last that was set at the end; `None` is not known yet.
    variables: Vec<(String, Option<String>)>,
    /// ARGs that were declared, in order, with their values then.
    args: Vec<(String, Option<String>)>,
    /// Whether an unknown variable may come from an image that has not been seen.
    is_open: bool,
    /// Whether the working directory hangs on such an image.
    is_elsewhere: bool,
}

impl Scope {
    fn set(&mut self, name: &str, value: Option<String>) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value));
    }

    fn lookup(&self, name: &str) -> Value {
        match self.variables.iter().rfind(|(known, _)| known == name) {
            Some((_, Some(value))) => Value::Set(value.clone()),
            Some((_, None)) => Value::Unknown,
            None if self.is_open => Value::Unknown,
            None => Value::Unset,
        }
    }
}

/// What an instruction comes to.
#[derive(Default)]
struct Done {
    action: Option<Action>,
    created_by: String,
    /// Whether BuildKit counts it.
    counts: bool,
}

/// A stage that is being evaluated.
pub(super) struct Evaluator<'a> {
    program: &'a Program,
    number: usize,
    config: ImageConfig,
    scope: Scope,
    has_cmd: bool,
    counted: usize,
    total: usize,
    steps: Vec<Step>,
    problems: Vec<ParseProblem>,
}

impl<'a> Evaluator<'a> {
    /// Evaluates a stage. `below` is `None` when the image that it stands on has not been seen.
    pub(super) fn run(
        program: &'a Program,
        number: usize,
        below: Option<Below<'_>>,
    ) -> (Stage, Vec<ParseProblem>) {
        let text = &program.stages[number];
        let (mut config, mut scope) = match below {
            Some(Below::Image(config)) => (config.clone(), Scope::default()),
            Some(Below::Stage(stage)) => (stage.config.clone(), stage.scope.clone()),
            None => {
                let scope = Scope { is_open: true, is_elsewhere: true, ..Scope::default() };
                (ImageConfig::scratch(&program.platform), scope)
            }
        };
        let triggers = prepare(&mut config, text.base == Base::Scratch);
        scope.is_open |= program.is_broken;
        for variable in &config.config.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            // What is below may have another PATH.
            let is_known = below.is_some() || name != "PATH";
            scope.set(name, is_known.then(|| value.to_owned()));
        }
        let counted = usize::from(matches!(text.base, Base::Image(_)));
        let own = text.instructions.iter().filter(|instruction| is_counted(&instruction.kind)).count();
        let mut evaluator = Self {
            program,
            number,
            config,
            scope,
            has_cmd: false,
            counted,
            total: counted + own + triggers.len(),
            steps: Vec::new(),
            problems: Vec::new(),
        };
        for trigger in &triggers {
            evaluator.trigger(trigger, text.span);
        }
        for instruction in &text.instructions {
            evaluator.step(instruction, false);
        }
        let Self { config, scope, steps, problems, .. } = evaluator;
        (Stage { steps, config, scope }, problems)
    }

    /// What the image below left by ONBUILD.
    fn trigger(&mut self, text: &str, from: Span) {
        let mut found = Vec::new();
        let raws = read::read_trigger(text, &mut found);
        let mut instructions = Vec::new();
        for raw in &raws {
            match Instruction::of(raw, self.program.escape) {
                Ok(Instruction { kind: Kind::Onbuild { .. } | Kind::From { .. }, .. }) => {
                    found.push(problem(from, "it cannot stand there", None));
                }
                Ok(instruction) => instructions.push(Instruction { line: 0, ..instruction }),
                Err(problem) => found.push(problem),
            }
        }
        if found.is_empty() && instructions.len() != 1 {
            found.push(problem(from, "it is not one instruction", None));
        }
        let before = self.problems.len();
        self.problems.append(&mut found);
        if let (true, [instruction]) = (self.problems.len() == before, instructions.as_slice()) {
            self.step(instruction, true);
        }
        for found in &mut self.problems[before..] {
            found.span = from;
            found.message = format!("`ONBUILD {text}` of what this stage stands on: {}", found.message);
        }
    }

    fn step(&mut self, instruction: &Instruction, is_trigger: bool) {
        let done = match self.apply(instruction) {
            Ok(done) => done,
            Err(found) => {
                self.problems.extend(found.0);
                return;
            }
        };
        let Some(Done { action, created_by, counts }) = done else { return };
        self.counted += usize::from(counts);
        let label = self.label(instruction);
        self.steps.push(Step {
            number: if counts { self.counted } else { 0 },
            total: self.total,
            text: instruction.text.clone(),
            label: if is_trigger { format!("ONBUILD {label}") } else { label },
            created_by,
            line: instruction.line,
            action,
        });
    }

    /// The step as BuildKit's progress names it.
    fn label(&self, instruction: &Instruction) -> String {
        let mut text = instruction.text.clone();
        let mut rules = Rules::new(self.program.escape);
        let mut hidden: Vec<&str> = Vec::new();
        if let Kind::Run(line) = &instruction.kind {
            rules = Rules { keep_quotes: true, keep_unset: true, ..rules };
            if let (Command::Shell(command), [first, ..]) = (&line.command, line.heredocs.as_slice())
                && is_heredoc(command)
            {
                let mut lines = first.content.trim().lines();
                let summary = lines.next().unwrap_or_default();
                let more = if lines.next().is_some() { "..." } else { "" };
                text = format!("{text} ({summary}{more})");
            }
            hidden = line.mounts.iter().filter_map(|mount| mount.secret_variable()).collect();
        }
        let lookup = |name: &str| {
            if hidden.contains(&name) { Value::Set("****".into()) } else { self.scope.lookup(name) }
        };
        let text = match instruction.kind {
            Kind::Run(_) | Kind::Copy(_) | Kind::Workdir(_) => {
                shell::word(&text, rules, &lookup).unwrap_or(text)
            }
            _ => text,
        };
        match text.split_once(' ') {
            Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
            None => text.to_uppercase(),
        }
    }

    /// What an instruction does; `None` in it when history has nothing to say of it.
    fn apply(&mut self, instruction: &Instruction) -> Result<Option<Done>, Missing> {
        let settings = &mut self.config.config;
        let history = |created_by: String| Ok(Some(Done { created_by, ..Done::default() }));
        match &instruction.kind {
            Kind::From { .. } => Ok(None),
            Kind::Arg(args) => self.args(args).and_then(history),
            Kind::Env(pairs) => self.env(pairs).and_then(history),
            Kind::Label(pairs) => {
                let mut text = "LABEL".to_owned();
                let pairs = pairs.iter().map(|(name, value)| Ok((self.expand(name)?, self.expand(value)?)));
                for (name, value) in Missing::all(pairs)? {
                    text.push_str(&format!(" {name}={value}"));
                    self.config.config.labels.get_or_insert_default().insert(name, value);
                }
                history(text)
            }
            Kind::Maintainer(text) => {
                self.config.other.insert("author".into(), text.as_str().into());
                history(format!("MAINTAINER {text}"))
            }
            Kind::Run(line) => self.run_line(line, instruction.span).map(Some),
            Kind::Copy(line) => self.copy(line, instruction.span).map(Some),
            Kind::Workdir(path) => self.workdir(path).map(Some),
            Kind::User(user) => {
                let user = self.expand(user)?;
                self.config.config.user.clone_from(&user);
                history(format!("USER {user}"))
            }
            Kind::Expose(words) => self.expose(words).and_then(history),
            Kind::Volume(words) => {
                let paths = Missing::all(words.iter().map(|word| match self.expand(word)? {
                    path if path.is_empty() => {
                        Err(problem(word.span, "a VOLUME cannot be empty", None).into())
                    }
                    path => Ok(path),
                }))?;
                let text = format!("VOLUME [{}]", paths.join(" "));
                let volumes = self.config.config.volumes.get_or_insert_default();
                volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
                history(text)
            }
            Kind::StopSignal(word) => {
                let text = self.expand(word)?;
                if !signal::is_signal(&text) {
                    let help = Some("a name like SIGTERM or TERM, or a number");
                    return Err(problem(word.span, format!("there is no signal {text}"), help).into());
                }
                self.config.config.stop_signal = Some(text.clone());
                history(format!("STOPSIGNAL {text}"))
            }
            Kind::Cmd(command) => {
                let argv = with_shell(settings.shell.as_deref(), command);
                let text = format!("CMD {}", golang::quoted_list(&argv));
                settings.cmd = Some(argv).filter(|argv| !argv.is_empty());
                settings.args_escaped = Some(true);
                self.has_cmd = true;
                history(text)
            }
            Kind::Entrypoint(command) => {
                let argv = with_shell(settings.shell.as_deref(), command);
                let text = format!("ENTRYPOINT {}", golang::quoted_list(&argv));
                settings.entrypoint = Some(argv).filter(|argv| !argv.is_empty());
                if !self.has_cmd {
                    settings.cmd = None;
                }
                history(text)
            }
            Kind::Shell(argv) => {
                settings.shell = Some(argv.clone());
                history(format!("SHELL [{}]", argv.join(" ")))
            }
            Kind::Healthcheck(check) => {
                let time = golang::duration_text;
                let text = format!(
                    "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
                    check.test.join(" "),
                    time(check.interval),
                    time(check.timeout),
                    time(check.start_period),
                    time(check.start_interval),
                    check.retries
                );
                settings.healthcheck = Some(check.clone());
                history(text)
            }
            Kind::Onbuild { text, .. } => {
                settings.on_build.push(text.clone());
                Ok(None)
            }
        }
    }

    fn rules(&self) -> Rules {
        Rules::new(self.program.escape)
    }

    fn expand(&self, word: &Word) -> Result<String, Missing> {
        self.expand_text(&word.value, word.span)
    }

    fn expand_text(&self, text: &str, span: Span) -> Result<String, Missing> {
        missing(shell::word(text, self.rules(), &|name| self.scope.lookup(name)), span)
    }

    fn args(&mut self, args: &[(String, Option<Word>)]) -> Result<String, Missing> {
        let mut texts = vec!["ARG".to_owned()];
        let mut results = Vec::new();
        for (name, default) in args {
            let value = match (self.program.args.get(name), default) {
                (Some(value), _) => Ok(Some(value.clone())),
                (None, Some(default)) => self.expand(default).map(Some),
                (None, None) => Ok(self.program.globals.get(name).cloned()),
            };
            match value {
                Ok(value) => {
                    let is_variable = value.is_some() && !NO_VARIABLES.contains(&name.as_str());
                    if is_variable {
                        self.scope.set(name, value.clone());
                    }
                    texts.push(value.as_ref().map_or(name.clone(), |value| format!("{name}={value}")));
                    self.scope.args.push((name.clone(), value));
                }
                Err(found) => {
                    self.scope.set(name, None);
                    self.scope.args.push((name.clone(), None));
                    results.push(Err(found));
                }
            }
        }
        Missing::all::<()>(results).map(|_| texts.join(" "))
    }

    fn env(&mut self, pairs: &[(Word, Word)]) -> Result<String, Missing> {
        // All of them see the variables before the instruction.
        let expanded: Vec<_> =
            pairs.iter().map(|(name, value)| (self.expand(name), self.expand(value))).collect();
        let mut text = "ENV".to_owned();
        let mut results = Vec::new();
        for pair in expanded {
            match pair {
                (Ok(name), Ok(value)) => {
                    text.push_str(&format!(" {name}={value}"));
                    set_env(&mut self.config.config.env, &name, &value);
                    self.scope.set(&name, Some(value));
                }
                (Ok(name), Err(found)) => {
                    self.scope.set(&name, None);
                    results.push(Err(found));
                }
                (Err(found), _) => {
                    self.scope.is_open = true;
                    results.push(Err(found));
                }
            }
        }
        Missing::all::<()>(results).map(|_| text)
    }

    fn expose(&mut self, words: &[Word]) -> Result<String, Missing> {
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by(|a, b| a.value.cmp(&b.value));
        let ports = sorted.into_iter().map(|word| {
            let lookup = |name: &str| self.scope.lookup(name);
            let texts = missing(shell::words(&word.value, self.rules(), &lookup), word.span)?;
            let ports = texts.iter().map(|text| {
                let help = Some("a number up to 65535 or a range, and maybe /tcp, /udp or /sctp");
                let message = format!("{text} is no port");
                expanded_ports(text).ok_or_else(|| problem(word.span, message, help).into())
            });
            Missing::all(ports)
        });
        let ports = Missing::all(ports)?.into_iter().flatten().flatten().collect::<Vec<_>>();
        let text = format!("EXPOSE [{}]", ports.join(" "));
        let exposed = self.config.config.exposed_ports.get_or_insert_default();
        exposed.extend(ports.into_iter().map(|port| (port, Empty {})));
        Ok(text)
    }

    fn workdir(&mut self, word: &Word) -> Result<Done, Missing> {
        let path = match self.expand(word) {
            Ok(path) => path,
            Err(found) => {
                self.scope.is_elsewhere = true;
                return Err(found);
            }
        };
        let current = golang::join("/", &self.config.config.working_dir);
        let path = match path.as_str() {
            "" => current,
            path if path.starts_with('/') => {
                self.scope.is_elsewhere = false;
                path.to_owned()
            }
            path => golang::join(&current, path),
        };
        self.config.config.working_dir.clone_from(&path);
        let counts = path != "/";
        let action = counts
            .then(|| Action::Workdir { path: golang::clean(&path), user: self.config.config.user.clone() });
        Ok(Done { action, created_by: format!("WORKDIR {path}"), counts })
    }

    /// Absolute and without `..`; `None` when it is not known yet.
    fn current_dir(&self) -> Option<String> {
        (!self.scope.is_elsewhere).then(|| golang::join("/", &self.config.config.working_dir))
    }

    /// Where `COPY --from` or a mount's `from` leads.
    fn source(&self, word: &Word) -> Result<From, ParseProblem> {
        self.program.source(self.number, word)
    }

    fn run_line(&mut self, line: &RunLine, span: Span) -> Result<Done, Missing> {
        let (command, files) =
            heredoc_command(&line.command, &line.heredocs).map_err(|message| problem(span, message, None))?;
        let argv = with_shell(self.config.config.shell.as_deref(), &command);
        let workdir = self.current_dir();
        let mut ssh = 0;
        let mounts: Vec<Mount> = Missing::all(line.mounts.iter().map(|raw| {
            let from = raw.from().map(|word| self.source(&word)).transpose()?;
            let place = Place { workdir: workdir.as_deref(), from, ssh };
            let mount = raw.evaluate(place, &|text, span| self.expand_text(text, span))?;
            ssh += usize::from(matches!(mount.kind, MountKind::Ssh { .. }));
            Ok(mount)
        }))?;
        let mut env: Vec<(String, String)> = Vec::new();
        for (name, value) in &self.scope.variables {
            env.push((name.clone(), value.clone().ok_or_else(Missing::unknown)?));
        }
        let socket = mounts.iter().find(|mount| matches!(mount.kind, MountKind::Ssh { .. }));
        if let Some(socket) = socket.filter(|_| env.iter().all(|(name, _)| name != "SSH_AUTH_SOCK")) {
            env.push(("SSH_AUTH_SOCK".into(), socket.target.clone()));
        }
        for (name, value) in self.program.proxies() {
            env.retain(|(known, _)| *known != name);
            env.push((name, value));
        }
        let created_by = self.run_text(&argv);
        let action = Action::Run(Run {
            argv,
            env,
            workdir: workdir.ok_or_else(Missing::unknown)?,
            user: self.config.config.user.clone(),
            mounts,
            network: line.network,
            heredocs: files,
        });
        Ok(Done { action: Some(action), created_by, counts: true })
    }

    /// `RUN |2 A=1 B=2 /bin/sh -c true # buildkit`: the ARGs in scope stand before the command.
    fn run_text(&self, argv: &[String]) -> String {
        let mut args: Vec<(&str, String)> = Vec::new();
        for (name, value) in &self.scope.args {
            let value = match self.scope.lookup(name) {
                Value::Set(value) => value,
                _ => value.clone().unwrap_or_default(),
            };
            match args.iter_mut().find(|(known, _)| known == name) {
                Some(known) => known.1 = value,
                None => args.push((name, value)),
            }
        }
        let mut words = vec!["RUN".to_owned()];
        if !args.is_empty() {
            words.push(format!("|{}", args.len()));
            words.extend(args.into_iter().map(|(name, value)| format!("{name}={value}")));
        }
        words.extend_from_slice(argv);
        words.join(" ") + " # buildkit"
    }

    fn copy(&self, line: &CopyLine, span: Span) -> Result<Done, Missing> {
        let keyword = if line.is_add { "ADD" } else { "COPY" };
        if let Some(span) = line.keep_git_dir {
            return Err(problem(span, "git sources are not supported here, nor --keep-git-dir", None).into());
        }
        let from = line.from.as_ref().map(|word| self.source(word)).transpose()?;
        if from.as_ref().is_some_and(|from| *from == From::Image("scratch".into())) {
            return Err(problem(span, "scratch is empty: there is nothing to copy from it", None).into());
        }
        let some = |word: &Option<Word>| match word {
            Some(word) => Ok(Some(self.expand(word)?).filter(|text| !text.is_empty())),
            None => Ok::<_, Missing>(None),
        };
        let chown = some(&line.chown)?;
        let chmod_text = some(&line.chmod)?;
        let chmod = match (&chmod_text, &line.chmod) {
            (Some(text), Some(word)) => Some(octal(text, word.span)?),
            _ => None,
        };
        let checksum = some(&line.checksum)?;
        if let (Some(text), Some(word)) = (&checksum, &line.checksum) {
            check_checksum(text, word.span)?;
        }
        let mut text = keyword.to_owned();
        if line.parents {
            text.push_str(" --parents");
        }
        for (name, value) in [("chown", &chown), ("chmod", &chmod_text)] {
            if let Some(value) = value {
                text.push_str(&format!(" --{name}={value}"));
            }
        }
        let mut sources = Missing::all(line.sources.iter().map(|word| {
            let source = self.expand(word)?;
            text.push_str(&format!(" {source}"));
            Ok(copy_source(line, &source, checksum.as_ref(), word.span)?)
        }))?;
        let is_url = |source: &CopySource| matches!(source, CopySource::Url { .. });
        if let (Some(_), Some(word)) = (&checksum, &line.checksum)
            && !(matches!(sources.as_slice(), [one] if is_url(one)))
        {
            return Err(problem(word.span, "--checksum goes with exactly one URL", None).into());
        }
        if let Some((true, span)) = line.unpack
            && sources.iter().any(is_url)
        {
            return Err(problem(span, "what is fetched cannot be unpacked here: --unpack", None).into());
        }
        for heredoc in &line.inline {
            text.push_str(&format!(" <<{}", heredoc.name));
            let mut content = heredoc.stripped();
            if heredoc.expand {
                let rules = Rules { ignore_quotes: true, ..Rules::new('\\') };
                content = missing(shell::word(&content, rules, &|name| self.scope.lookup(name)), span)?;
            }
            sources.push(CopySource::Inline { name: heredoc.name.clone(), content });
        }
        let target = line.target.as_ref().ok_or_else(Missing::unknown)?;
        let written = self.expand(target)?;
        let is_folder = sources.len() > 1
            || matches!(written.as_str(), "" | ".")
            || written.ends_with('/')
            || written.ends_with("/.");
        let mut path = if written.starts_with('/') {
            golang::clean(&written)
        } else {
            golang::join(&self.current_dir().ok_or_else(Missing::unknown)?, &written)
        };
        if is_folder && path != "/" {
            path.push('/');
        }
        text.push_str(&format!(" {written} # buildkit"));
        // What is not unpacked is copied.
        let is_add = line.is_add && !matches!(line.unpack, Some((false, _)) if !sources.iter().any(is_url));
        let action = Action::Copy(Copy {
            is_add,
            from: from.unwrap_or(From::Context),
            sources,
            target: path,
            chown,
            chmod,
            link: line.link,
            parents: line.parents,
            excludes: line.excludes.clone(),
        });
        Ok(Done { action: Some(action), created_by: text, counts: true })
    }
}

/// Makes the configuration of what is below the beginning of a stage's own, and takes its triggers out.
fn prepare(config: &mut ImageConfig, is_scratch: bool) -> Vec<String> {
    config.created = None;
    config.history.clear();
    config.rootfs = RootFs::default();
    // What BuildKit does not know, it does not hand on.
    config.other.retain(|name, _| matches!(name.as_str(), "author" | "os.version" | "os.features"));
    let settings = &mut config.config;
    settings.other.clear();
    if is_scratch && settings.working_dir.is_empty() {
        settings.working_dir = "/".into();
    }
    if settings.env.iter().all(|variable| variable != "PATH" && !variable.starts_with("PATH=")) {
        settings.env.push(format!("PATH={PATH}"));
    }
    std::mem::take(&mut settings.on_build)
}

/// Whether BuildKit counts an instruction as a step.
fn is_counted(kind: &Kind) -> bool {
    matches!(kind, Kind::Run(_) | Kind::Copy(_) | Kind::Workdir(_))
}

fn missing<T>(result: Result<T, NoValue>, span: Span) -> Result<T, Missing> {
    result.map_err(|error| match error {
        NoValue::Unknown => Missing::unknown(),
        NoValue::Wrong(message) => problem(span, message, None).into(),
    })
}

fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let is_it = |variable: &&mut String| variable.split('=').next() == Some(name);
    let text = format!("{name}={value}");
    match env.iter_mut().find(is_it) {
        Some(variable) => *variable = text,
        None => env.push(text),
    }
}

fn with_shell(shell: Option<&[String]>, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(argv) => argv.clone(),
        Command::Shell(line) => {
            let default = ["/bin/sh".to_owned(), "-c".to_owned()];
            let shell = shell.filter(|shell| !shell.is_empty()).unwrap_or(&default);
            shell.iter().chain([line]).cloned().collect()
        }
    }
}

fn is_heredoc(text: &str) -> bool {
    read::heredoc(text).is_ok_and(|heredoc| heredoc.is_some())
}

/// What a RUN with heredocs runs, and the files that it needs below `/dev/pipes`.
fn heredoc_command(
    command: &Command,
    heredocs: &[read::Heredoc],
) -> Result<(Command, Vec<(String, String)>), String> {
    let (Command::Shell(line), [first, ..]) = (command, heredocs) else {
        return Ok((command.clone(), Vec::new()));
    };
    if is_heredoc(line) {
        let content = first.stripped();
        if !content.starts_with("#!") {
            return Ok((Command::Shell(content), Vec::new()));
        }
        // A script with an interpreter of its own is a file.
        if first.name.contains('/') {
            return Err(format!("a script cannot be called {}", first.name));
        }
        let path = format!("/dev/pipes/{}", first.name);
        return Ok((Command::Shell(path), vec![(first.name.clone(), content)]));
    }
    // The shell reads its heredocs by itself.
    let mut text = line.clone();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Ok((Command::Shell(text), Vec::new()))
}

fn octal(text: &str, span: Span) -> Result<u32, ParseProblem> {
    let help = Some("an octal number up to 7777, such as 0644");
    let looks_symbolic = text.chars().all(|c| "ugoarwxXstl+-=,".contains(c));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 && !text.starts_with('+') => Ok(mode),
        _ if looks_symbolic => {
            Err(problem(span, format!("--chmod={text}: symbolic modes are not supported here"), help))
        }
        _ => Err(problem(span, format!("--chmod={text} is no mode"), help)),
    }
}

fn check_checksum(text: &str, span: Span) -> Result<(), ParseProblem> {
    let is_hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match text.strip_prefix("sha256:") {
        Some(hex) if is_hex(hex) => Ok(()),
        _ => Err(problem(span, format!("{text} is no checksum"), Some("sha256: and 64 hexadecimal digits"))),
    }
}

/// What a source of COPY or ADD names.
fn copy_source(
    line: &CopyLine,
    source: &str,
    checksum: Option<&String>,
    span: Span,
) -> Result<CopySource, ParseProblem> {
    if is_git(source) {
        let message =
            if line.is_add { "git sources are not supported here" } else { "COPY takes no git source" };
        return Err(problem(span, message, Some("fetch it before the build, or with RUN git clone")));
    }
    if source.starts_with("http://") || source.starts_with("https://") {
        if !line.is_add {
            return Err(problem(span, "COPY takes no URL", Some("ADD does")));
        }
        return Ok(CopySource::Url { url: source.to_owned(), checksum: checksum.cloned() });
    }
    let relative = |path: &str| golang::join("/", path)[1..].to_owned();
    // `--parents` keeps what stands after `/./`.
    if let (true, Some((above, below))) = (line.parents, source.split_once("/./")) {
        let (above, below) = (relative(above), relative(below));
        return Ok(CopySource::Path(if above.is_empty() { below } else { format!("{above}/./{below}") }));
    }
    let path = relative(source);
    Ok(CopySource::Path(if path.is_empty() { ".".into() } else { path }))
}

/// BuildKit's `ParseGitRef`: an http(s) URL of a path that ends in `.git`, any `git://` or `ssh://`, `user@host:path`.
fn is_git(source: &str) -> bool {
    if let Some((scheme, rest)) = source.split_once("://") {
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        let path = path.split_once('/').map_or("", |(_, path)| path);
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => true,
            "http" | "https" => path.ends_with(".git"),
            _ => false,
        };
    }
    let Some((user, rest)) = source.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let is_name = |text: &str, others: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
    };
    is_name(user, "-_") && is_name(host, "-.")
}

/// `80`, `53/udp`, `8000-8010`; the parts for a host's address and port, which have no meaning, are checked by number.
fn expanded_ports(text: &str) -> Option<Vec<String>> {
    let (host, container) = match text.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, text),
    };
    let (numbers, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" => "tcp".to_owned(),
        protocol @ ("tcp" | "udp" | "sctp") => protocol.to_owned(),
        _ => return None,
    };
    let range = |text: &str| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let number =
            |text: &str| text.parse::<u16>().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()));
        Some((number(from)?, number(to)?)).filter(|(from, to)| from <= to)
    };
    let (from, to) = range(numbers)?;
    if let Some(host) = host {
        let (address, port) = match host.rsplit_once(':') {
            Some((address, port)) => (address.trim_matches(['[', ']']), port),
            None => ("", host),
        };
        if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
            return None;
        }
        if !port.is_empty() {
            let (start, end) = range(port)?;
            if end - start != to - from && from != to {
                return None;
            }
        }
    }
    Some((from..=to).map(|port| format!("{port}/{protocol}")).collect())
}

impl Program {
    /// Proxies that are given as build arguments, as every command gets them.
    fn proxies(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for name in PROXIES {
            // As BuildKit takes them: of several spellings the last in alphabetical order.
            let value = self.args.iter().rfind(|(known, _)| known.eq_ignore_ascii_case(name));
            if let Some((_, value)) = value.filter(|(_, value)| !value.is_empty()) {
                found.push((name.to_owned(), value.clone()));
                found.push((name.to_lowercase(), value.clone()));
            }
        }
        found
    }
}
