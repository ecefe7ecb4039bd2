//! An image that a repository describes, and where.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::manifest::Network;
use imgforge_core::name::ImageName;
use imgforge_dockerfile::program::RunNetwork;
use imgforge_dockerfile::{Dockerfile, Instruction, Reference};

/// An image that can be taken over.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// Where it is described: `docker-bake.hcl: target "web"`, or the path of a Dockerfile.
    pub(super) place: String,
    /// From the workspace's root.
    pub(super) dockerfile: Utf8PathBuf,
    /// From the workspace's root.
    pub(super) context: Utf8PathBuf,
    pub(super) target: Option<String>,
    pub(super) args: BTreeMap<String, Option<String>>,
    pub(super) labels: BTreeMap<String, String>,
    /// The references that it is published as.
    pub(super) published: BTreeSet<String>,
    /// Other targets of its bake file by the names that the Dockerfile has for them.
    pub(super) contexts: BTreeMap<String, String>,
    pub(super) network: Option<Network>,
    /// Names that it could have, the best first.
    pub(super) wanted: Vec<String>,
    /// What its folder says of its repository and tag, when nothing else does.
    pub(super) identities: Vec<(String, Option<String>)>,
    /// What a person should look at.
    pub(super) notes: Vec<String>,
    pub(super) name: Option<ImageName>,
    /// Other names that it must have, since Dockerfiles use them.
    pub(super) aliases: BTreeSet<String>,
    /// Whether it is in the workspace already.
    pub(super) is_there: bool,
}

impl Candidate {
    pub(super) fn new(place: String, dockerfile: Utf8PathBuf, context: Utf8PathBuf) -> Self {
        Self {
            place,
            dockerfile,
            context,
            target: None,
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            published: BTreeSet::new(),
            contexts: BTreeMap::new(),
            network: None,
            wanted: Vec::new(),
            identities: Vec::new(),
            notes: Vec::new(),
            name: None,
            aliases: BTreeSet::new(),
            is_there: false,
        }
    }

    /// The folder that its `image.kdl` is in.
    pub(super) fn folder(&self) -> &Utf8Path {
        self.dockerfile.parent().unwrap_or(Utf8Path::new(""))
    }

    /// The values of its arguments.
    pub(super) fn values(&self) -> BTreeMap<String, String> {
        self.args.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect()
    }
}

/// What a candidate's Dockerfile says of its target.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) text: String,
    pub(super) parsed: Dockerfile,
}

impl Read {
    /// Reads a Dockerfile as the workspace will.
    pub(super) fn of(text: &str, candidate: &Candidate) -> Result<Self, String> {
        let parsed = Dockerfile::parse(text).map_err(|found| {
            let problem = &found[0];
            let line = text[..problem.span.offset as usize].matches('\n').count() + 1;
            format!("line {line}: {}", problem.message)
        })?;
        let Some(target) = &candidate.target else { return Ok(Self { text: text.to_owned(), parsed }) };
        let reduced = parsed.reduced(text, target, &candidate.values());
        let reduced = reduced.ok_or_else(|| format!("it has no stage \"{target}\""))?;
        let parsed = Dockerfile::parse(&reduced.text).map_err(|found| found[0].message.clone())?;
        Ok(Self { text: reduced.text, parsed })
    }

    pub(super) fn references(&self, candidate: &Candidate) -> Vec<Reference> {
        self.parsed.references(&candidate.values())
    }

    /// Whether it makes an image of Windows, by what it says itself.
    pub(super) fn windows(&self, candidate: &Candidate) -> Option<String> {
        let of_windows = |reference: &Reference| {
            let image = reference.image.to_lowercase();
            ["/windows/", "nanoserver", "windowsservercore", "servercore"]
                .iter()
                .any(|part| image.contains(part))
                || reference.platform.as_ref().is_some_and(|platform| platform.starts_with("windows"))
        };
        let found = self.references(candidate).into_iter().find(of_windows);
        if let Some(found) = found {
            return Some(format!("an image of Windows: it uses {}", found.image));
        }
        let shells = self.parsed.instructions().iter().filter(|line| line.keyword() == "SHELL");
        let shell = shells.map(|line| line.text().to_lowercase()).find(|text| {
            ["powershell", "pwsh.exe", "cmd.exe", "\"cmd\""].iter().any(|shell| text.contains(shell))
        });
        shell.map(|_| "an image of Windows: its SHELL is one of Windows".to_owned())
    }

    /// What its steps reach on the network, as far as that can be seen: commands that do nothing but change files
    /// here reach nothing, all others may.
    pub(super) fn network(&self, candidate: &Candidate) -> Network {
        let args = candidate.values();
        if !self.parsed.beyond(RunNetwork::Default, &args).is_empty() {
            return Network::Host;
        }
        let runs = self.parsed.instructions().iter().filter(|line| line.keyword() == "RUN");
        let fetches = runs.map(Instruction::text).any(may_fetch);
        if fetches || !self.parsed.beyond(RunNetwork::None, &args).is_empty() {
            Network::Default
        } else {
            Network::None
        }
    }
}

/// Commands that reach nothing.
const HARMLESS: [&str; 44] = [
    "[", "addgroup", "adduser", "awk", "basename", "cat", "cd", "chgrp", "chmod", "chown", "cp", "cut",
    "date", "dirname", "do", "done", "echo", "else", "exit", "export", "false", "fi", "find", "grep",
    "groupadd", "if", "install", "ln", "ls", "mkdir", "mv", "printf", "rm", "sed", "set", "sh", "sort",
    "tail", "tar", "test", "then", "touch", "true", "useradd",
];

/// Whether a RUN has a command that may reach other machines.
fn may_fetch(run: &str) -> bool {
    let rest = run.split_once(char::is_whitespace).map_or("", |(_, rest)| rest);
    let commands = rest.split(['\n', ';', '|', '&', '(', ')', '{', '}']);
    commands.map(str::trim).filter(|command| !command.is_empty()).any(|command| {
        let mut words =
            command.split_whitespace().filter(|word| !word.starts_with("--") && !word.contains('='));
        let first = words.next().unwrap_or("true").trim_matches(['"', '[', ',', '\'']);
        let first = first.rsplit('/').next().unwrap_or(first);
        // What a shell is given to do is not looked at any more closely.
        !first.is_empty() && (!HARMLESS.contains(&first) || first == "sh" && command.contains("-c"))
    })
}
