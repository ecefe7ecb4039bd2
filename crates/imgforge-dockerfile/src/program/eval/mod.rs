//! Evaluates a stage: what each instruction does when everything below it is known. The rules are those of BuildKit's
//! `frontend/dockerfile/dockerfile2llb`.
//!
//! The same code looks over a file before anything is built. What depends on an image that has not been seen is then
//! left out, and what is wrong whatever that image says is found.

pub(crate) mod copy;
pub(crate) mod expose;
mod run;

use self::run::{is_heredoc, with_shell};
use super::instruction::{Instruction, Kind, Missing, Word, problem};
use super::shell::{self, NoValue, Rules, Value};
use super::{Action, Base, Below, From, Program, Stage, Step, golang, read, signal};
use crate::{Command, ParseProblem};
use imgforge_oci::{Empty, ImageConfig, RootFs};
use imgforge_syntax::Span;

/// The PATH of an image that has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Build arguments that are no variables of commands.
const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

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

    /// Takes what an image or stage below says of variables: its ENVs count again, also where an ARG of the stage
    /// below has had another value. `is_seen` says whether all of them are known.
    fn enter(&mut self, env: &[String], is_seen: bool) {
        let unknown: Vec<String> = self
            .variables
            .iter()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        if self.is_open {
            // An image that has not been seen may have an ENV of any ARG's name.
            self.variables.iter_mut().for_each(|(_, value)| *value = None);
        }
        for variable in env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            // What is below may have another PATH.
            let is_known = (is_seen || name != "PATH") && !unknown.iter().any(|unknown| unknown == name);
            self.set(name, is_known.then(|| value.to_owned()));
        }
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

/// Who looks at each instruction of a stage, if anybody.
pub(super) type Look<'a> = Option<&'a mut dyn FnMut(&Seen<'_>)>;

/// An instruction with what is known before it is carried out.
pub(crate) struct Seen<'a> {
    /// The number of its stage, from 0.
    pub(crate) stage: usize,
    pub(crate) instruction: &'a Instruction,
    /// Of what ONBUILD has brought: the FROM that it comes with.
    from: Option<Span>,
    scope: &'a Scope,
    rules: Rules,
}

impl Seen<'_> {
    /// A word with variables expanded; `None` where the file does not tell, or when it is wrong.
    pub(crate) fn expand(&self, text: &str) -> Option<String> {
        shell::word(text, self.rules, &|name| self.scope.lookup(name)).ok()
    }

    /// The words that a word comes to.
    pub(crate) fn words(&self, text: &str) -> Option<Vec<String>> {
        shell::words(text, self.rules, &|name| self.scope.lookup(name)).ok()
    }

    /// Whether it stands in this stage, and is not what ONBUILD has brought.
    pub(crate) fn is_own(&self) -> bool {
        self.from.is_none()
    }

    /// Where a part of it stands in the file.
    pub(crate) fn place(&self, span: Span) -> Span {
        self.from.unwrap_or(span)
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
    /// Evaluates a stage. `below` is `None` when the image that it stands on has not been seen. Where there is one to
    /// look, it sees each instruction, and only variables are carried on: nobody asks for the steps.
    pub(super) fn run(
        program: &'a Program,
        number: usize,
        below: Option<Below<'_>>,
        look: &mut Look<'_>,
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
        scope.enter(&config.config.env, below.is_some());
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
            evaluator.trigger(trigger, text.span, look);
        }
        for instruction in &text.instructions {
            evaluator.step(instruction, None, look);
        }
        let Self { config, scope, steps, problems, .. } = evaluator;
        (Stage { steps, config, scope }, problems)
    }

    /// What the image below left by ONBUILD.
    fn trigger(&mut self, text: &str, from: Span, look: &mut Look<'_>) {
        let mut found = Vec::new();
        let raws = read::read_trigger(text, &mut found);
        let mut instructions = Vec::new();
        for raw in &raws {
            match Instruction::of(raw, self.program.escape) {
                Ok(Instruction { kind: Kind::Onbuild { .. } | Kind::From { .. }, .. }) => {
                    found.push(problem(from, "it cannot stand there", None));
                }
                Ok(mut instruction) => {
                    found.append(&mut instruction.problems);
                    instructions.push(Instruction { line: 0, ..instruction });
                }
                Err(problem) => found.push(problem),
            }
        }
        if found.is_empty() && instructions.len() != 1 {
            found.push(problem(from, "it is not one instruction", None));
        }
        let before = self.problems.len();
        self.problems.append(&mut found);
        if let (true, [instruction]) = (self.problems.len() == before, instructions.as_slice()) {
            self.step(instruction, Some(from), look);
        }
        for found in &mut self.problems[before..] {
            found.span = from;
            found.message = format!("`ONBUILD {text}` of what this stage stands on: {}", found.message);
        }
    }

    /// `from` is that of what ONBUILD has brought.
    fn step(&mut self, instruction: &Instruction, from: Option<Span>, look: &mut Look<'_>) {
        if let Some(look) = look {
            let (stage, rules) = (self.number, self.rules());
            look(&Seen { stage, instruction, from, scope: &self.scope, rules });
            if !matches!(instruction.kind, Kind::Arg(_) | Kind::Env(_) | Kind::Onbuild { .. }) {
                return;
            }
        }
        let done = match self.apply(instruction) {
            Ok(done) => done,
            Err(found) => {
                // What is already told as not known here may mean something else.
                if instruction.problems.is_empty() {
                    self.problems.extend(found.0);
                }
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
            label: if from.is_some() { format!("ONBUILD {label}") } else { label },
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
            Kind::From { .. } | Kind::Unread { .. } => Ok(None),
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
