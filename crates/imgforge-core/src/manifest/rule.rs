//! The rules of [`lint`](mod@crate::lint) by name, since a manifest may silence one: code, level, and the page that says more.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It goes wrong one day.
    Error,
    /// It may go wrong, or is meant.
    Warning,
}

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rule {
    /// A shell line starts several processes, and nothing watches them.
    SeveralProcesses,
    /// PID 1 is a shell.
    ShellAsInit,
    /// supervisord as PID 1.
    SupervisordWithoutInit,
    /// A service that others need has no readiness.
    NeedWithoutReadiness,
    /// A service runs as root, and no one says that it has to.
    RunsAsRoot,
    /// Stopping takes longer than Docker waits.
    SlowStop,
    /// A secret in the image's environment.
    SecretInEnvironment,
    /// An `allow` that silences nothing.
    UselessAllow,
    /// Steps that reach all that the machine reaches.
    HostNetwork,
    /// A service is a shell that runs programs, which its stop signal does not reach.
    ShellKeepsSignals,
    /// A private key that a build can reach.
    PrivateKeyInContext,
    /// An image from outside without a tag.
    ExternalWithoutTag,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::SeveralProcesses,
        Self::ShellAsInit,
        Self::SupervisordWithoutInit,
        Self::NeedWithoutReadiness,
        Self::RunsAsRoot,
        Self::SlowStop,
        Self::SecretInEnvironment,
        Self::UselessAllow,
        Self::HostNetwork,
        Self::ShellKeepsSignals,
        Self::PrivateKeyInContext,
        Self::ExternalWithoutTag,
    ];

    /// `IF001`.
    pub fn code(self) -> &'static str {
        match self {
            Self::SeveralProcesses => "IF001",
            Self::ShellAsInit => "IF002",
            Self::SupervisordWithoutInit => "IF003",
            Self::NeedWithoutReadiness => "IF004",
            Self::RunsAsRoot => "IF005",
            Self::SlowStop => "IF006",
            Self::SecretInEnvironment => "IF007",
            Self::UselessAllow => "IF008",
            Self::HostNetwork => "IF009",
            Self::ShellKeepsSignals => "IF011",
            Self::PrivateKeyInContext => "IF010",
            Self::ExternalWithoutTag => "IF012",
        }
    }

    /// How much its findings matter.
    pub fn level(self) -> Level {
        match self {
            Self::SeveralProcesses | Self::SupervisordWithoutInit => Level::Error,
            _ => Level::Warning,
        }
    }

    /// Its page of the documentation.
    pub fn page(self) -> &'static str {
        match self {
            Self::SeveralProcesses => include_str!("../../../../docs/lint/IF001.md"),
            Self::ShellAsInit => include_str!("../../../../docs/lint/IF002.md"),
            Self::SupervisordWithoutInit => include_str!("../../../../docs/lint/IF003.md"),
            Self::NeedWithoutReadiness => include_str!("../../../../docs/lint/IF004.md"),
            Self::RunsAsRoot => include_str!("../../../../docs/lint/IF005.md"),
            Self::SlowStop => include_str!("../../../../docs/lint/IF006.md"),
            Self::SecretInEnvironment => include_str!("../../../../docs/lint/IF007.md"),
            Self::UselessAllow => include_str!("../../../../docs/lint/IF008.md"),
            Self::HostNetwork => include_str!("../../../../docs/lint/IF009.md"),
            Self::ShellKeepsSignals => include_str!("../../../../docs/lint/IF011.md"),
            Self::PrivateKeyInContext => include_str!("../../../../docs/lint/IF010.md"),
            Self::ExternalWithoutTag => include_str!("../../../../docs/lint/IF012.md"),
        }
    }
}
