//! RUN: its mounts, its variables, its heredocs.

use imgforge_syntax::Span;

use super::{Done, Evaluator};
use crate::Command;
use crate::program::instruction::{Missing, RunLine, problem};
use crate::program::mount::Place;
use crate::program::shell::Value;
use crate::program::{Action, Mount, MountKind, Program, Run, read};

/// Build arguments that commands get without an ARG, in the order in which BuildKit gives them.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

impl Evaluator<'_> {
    pub(super) fn run_line(&mut self, line: &RunLine, span: Span) -> Result<Done, Missing> {
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
            network: line.network.as_ref().map(|network| network.value),
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
}

/// A command as it is started.
pub(super) fn with_shell(shell: Option<&[String]>, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(argv) => argv.clone(),
        Command::Shell(line) => {
            let default = ["/bin/sh".to_owned(), "-c".to_owned()];
            let shell = shell.filter(|shell| !shell.is_empty()).unwrap_or(&default);
            shell.iter().chain([line]).cloned().collect()
        }
    }
}

/// Whether a line is nothing but the beginning of a heredoc.
pub(super) fn is_heredoc(text: &str) -> bool {
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
