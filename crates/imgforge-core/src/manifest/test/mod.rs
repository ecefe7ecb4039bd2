//! `test "NAME" { ... }`: what must hold of an image after its build, asked in real containers.

mod read;

use imgforge_syntax::{Located, Span};
use serde::{Deserialize, Serialize};

use super::Millis;

pub(super) use self::read::{IN_TEST, test};

/// How long a test may take when it does not say so itself.
const DEFAULT_TIMEOUT: Millis = Millis(60_000);

/// `test "starts" timeout="30s" inherit=#true { http "http://{container}/" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// The node's place.
    pub span: Span,
    /// Its name; one that is inherited has one.
    pub name: Option<Located<String>>,
    /// `enabled=#false`: an inherited test of this name is not run here and in what stands on this image.
    pub enabled: bool,
    /// Whether it is run for everything that stands on the image too.
    pub inherit: bool,
    /// For all its checks together.
    pub timeout: Millis,
    /// `start=`: whether the image's own command is started for its checks; what follows when it is not given is in
    /// [`ImageTest`](crate::workspace::ImageTest).
    pub start: Option<Located<bool>>,
    /// In the order of the manifest.
    pub checks: Vec<Located<Check>>,
}

/// One thing that must hold. Nothing here has a place, so that a test's hash depends on what it asks only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// `http "http://{container}/healthz" status=200 contains="ok" within="10s"`.
    Http(HttpCheck),
    /// `tcp 80 within="10s"`: the port takes a connection.
    Tcp {
        /// The port.
        port: u16,
        /// How long it is asked again; the test's time when not given.
        within: Option<Millis>,
    },
    /// `command "nginx" "-v" exit=0 stderr-contains="nginx/" user="web"`.
    Command(CommandCheck),
    /// `file "/etc/nginx/nginx.conf" mode="0644" owner="root:root" contains="server"`.
    File(FileCheck),
    /// `user "web" uid=1000 gid=1000 home="/srv/web" shell="/bin/sh"`.
    User(UserCheck),
    /// `env "LANG" "C.UTF-8"`; without a value it must be set, with `absent=#true` it must not.
    Env {
        /// The variable.
        name: String,
        /// Its value.
        value: Option<String>,
        /// Whether it must not be set.
        absent: bool,
    },
    /// `size max="120MB"`.
    Size {
        /// In bytes.
        max: u64,
    },
    /// `no-setuid "/usr/bin/su"`: no file runs as another user than the one who starts it, but these.
    NoSetuid {
        /// Paths that may.
        but: Vec<String>,
    },
    /// `packages-as-locked`.
    PackagesAsLocked,
    /// `healthy within="10s"`: all services are ready, or the image's healthcheck says so.
    Healthy {
        /// How long it is asked again; the test's time when not given.
        within: Option<Millis>,
    },
    /// `stops within="10s" code=0`.
    Stops {
        /// How long it may take; the image's own stop time when not given.
        within: Option<Millis>,
        /// The exit code.
        code: i64,
    },
}

/// An answer that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// With `{container}` for the container's address.
    pub url: String,
    /// The status; any from 200 to 399 when not given.
    pub status: Option<u16>,
    /// A part of the body.
    pub contains: Option<String>,
    /// How long it is asked again; the test's time when not given.
    pub within: Option<Millis>,
}

/// A program that is run, and how it must end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandCheck {
    /// The program and its arguments; no shell.
    pub argv: Vec<String>,
    /// Its exit code.
    pub exit: i64,
    /// The whole of what it prints, without a newline at the end.
    pub stdout: Option<String>,
    /// A part of it.
    pub stdout_contains: Option<String>,
    /// The same for stderr.
    pub stderr: Option<String>,
    /// A part of it.
    pub stderr_contains: Option<String>,
    /// Who it runs as; the container's own user when not given.
    pub user: Option<String>,
}

/// A file in the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCheck {
    /// Its path.
    pub path: String,
    /// Whether it must not be there.
    pub absent: bool,
    /// What it is; links are followed unless a link is asked for.
    pub kind: Option<FileKind>,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: Option<u32>,
    /// `USER[:GROUP]`, names of the image's own `/etc/passwd` and `/etc/group`, or numbers.
    pub owner: Option<String>,
    /// A part of its text.
    pub contains: Option<String>,
    /// Of its content, in lower case.
    pub sha256: Option<String>,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
}

impl FileKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::File, Self::Folder, Self::Link];

    /// As manifests and messages have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Folder => "folder",
            Self::Link => "link",
        }
    }
}

/// An account in the image's `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserCheck {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: Option<u32>,
    /// Its group's number.
    pub gid: Option<u32>,
    /// Its home.
    pub home: Option<String>,
    /// Its shell.
    pub shell: Option<String>,
}

impl Check {
    /// The node's name.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp { .. } => "tcp",
            Self::Command(_) => "command",
            Self::File(_) => "file",
            Self::User(_) => "user",
            Self::Env { .. } => "env",
            Self::Size { .. } => "size",
            Self::NoSetuid { .. } => "no-setuid",
            Self::PackagesAsLocked => "packages-as-locked",
            Self::Healthy { .. } => "healthy",
            Self::Stops { .. } => "stops",
        }
    }

    /// Whether it asks what the image has started.
    pub fn needs_start(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Tcp { .. } | Self::Healthy { .. } | Self::Stops { .. })
    }
}
