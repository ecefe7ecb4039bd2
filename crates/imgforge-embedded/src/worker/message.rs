//! What a worker is asked, and what it answers.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
pub use imgforge_core::manifest::Compression;
pub use imgforge_core::manifest::Network;
use imgforge_core::source::Node;
use imgforge_oci::{Digest, MediaType};
use serde::{Deserialize, Serialize};

/// One task. Folders are absolute paths on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Changes a file system and packs what has changed.
    Step(Step),
    /// Unpacks a layer.
    Unpack(Unpack),
    /// Looks at paths of a stack of layers.
    Look(Look),
    /// Everything that there is in a stack of layers.
    Walk(Vec<Utf8PathBuf>),
    /// Starts a container and stays until it has ended.
    Container(Box<Container>),
    /// Runs a program in a container.
    Exec(Exec),
    /// Removes folders, whoever owns what is in them.
    Remove(Vec<Utf8PathBuf>),
}

/// The answer to a [`Request`] of the same name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// The new layer; `None` when nothing has changed.
    Step(Option<Layer>),
    /// The layer that was unpacked.
    Unpack(Unpacked),
    /// A layer unpacks to more than so many bytes, which the disk has free.
    NoRoom(u64),
    /// In the order of the request.
    Look(Vec<Option<Entry>>),
    /// By absolute path.
    Walk(Vec<(String, Entry)>),
    /// A container has ended.
    Container(Ended),
    /// A program in a container has ended, with this code.
    Exec(i64),
    /// Done.
    Remove,
    /// The program of a step or a container, or one that should run in it, cannot be started.
    NotStarted(NotStarted),
    /// The command of a step has ended with this code.
    Failed {
        /// The code.
        code: i64,
        /// Whether the disk was full then.
        is_full: bool,
    },
    /// It took longer than it may.
    TimedOut,
    /// The disk is full: what could not be written, in words for people.
    DiskFull(String),
    /// Something else went wrong: what, in words for people.
    Error(String),
}

/// A step of a build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// The unpacked layers that it begins with, lowest first.
    pub stack: Vec<Utf8PathBuf>,
    /// The action.
    pub action: Action,
    /// The path of the packed layer, a file that is not there yet.
    pub blob: Utf8PathBuf,
    /// The path of the unpacked layer, a folder that is not there yet (its parent is, on the same file system). Not
    /// that of a [`Action::Merge`], whose files are those of other layers.
    pub folder: Utf8PathBuf,
    /// The time of every file that the step writes, in seconds since 1970.
    pub epoch: i64,
    /// The compression of the layer.
    pub compression: Compression,
}

/// The action of a step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Action {
    /// Runs a command.
    Run(Run),
    /// Copies files.
    Copy(Copy),
    /// Makes one layer of several, which are already there.
    Merge {
        /// Their folders, lowest first.
        layers: Vec<Utf8PathBuf>,
    },
    /// Makes folders.
    Folder {
        /// Absolute, in the image.
        path: String,
        /// Whose they are: `USER[:GROUP]`, as the image knows them; empty for root.
        owner: String,
    },
}

/// A command that is run to change files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Absolute, in the image. It is made where it is missing.
    pub workdir: String,
    /// `USER[:GROUP]`, as the image knows them; empty for root.
    pub user: String,
    /// In order.
    pub mounts: Vec<Mount>,
    /// The network of the command.
    pub network: Network,
    /// After how many seconds it is killed.
    pub timeout: Option<u64>,
}

/// A mount beside the root file system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, in the image. It is made where it is missing, and is no part of the layer.
    pub target: String,
    /// The kind of the mount.
    pub kind: MountKind,
}

/// The kind of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or folder of this machine.
    Host {
        /// Absolute.
        path: Utf8PathBuf,
        /// Whether the folder can only be read.
        read_only: bool,
    },
    /// A folder of this machine that is kept from step to step. It is made when it is not there.
    Cache {
        /// Absolute.
        path: Utf8PathBuf,
        /// The content that the cache begins with.
        begin: Begin,
        /// Whether the cache can only be read.
        read_only: bool,
    },
    /// A path of other files: what is written there is gone afterwards.
    Tree {
        /// Whose.
        tree: Tree,
        /// The path there, relative to its root.
        path: String,
        /// Whether the tree can only be read.
        read_only: bool,
    },
    /// A file system in memory.
    Tmpfs {
        /// At most so many bytes.
        size: Option<u64>,
        /// Mode of its root.
        mode: u32,
    },
    /// The socket of an ssh agent, which is this machine's and made for this step.
    Socket {
        /// Absolute.
        path: Utf8PathBuf,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A file with this content, in memory.
    File {
        /// Its bytes.
        content: Vec<u8>,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// The content that a cache begins with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Begin {
    /// Nothing is in it.
    Empty {
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A copy of a folder.
    Copy {
        /// The layers that it is in, lowest first.
        stack: Vec<Utf8PathBuf>,
        /// Its path there, relative to the root.
        path: String,
    },
}

/// Files that something is copied from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Tree {
    /// Unpacked layers, lowest first.
    Stack(Vec<Utf8PathBuf>),
    /// A build context: exactly these, parents before what is in them.
    Context(Vec<ContextEntry>),
}

/// An entry of a build context.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContextEntry {
    /// Relative, no `.` or `..`.
    pub path: String,
    /// The kind of the entry.
    pub kind: ContextKind,
}

/// The kind of an entry of a build context. Everything in it is root's, and of 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ContextKind {
    /// A folder.
    Folder {
        /// Its permissions, with setuid, setgid and sticky bits.
        mode: u32,
    },
    /// A file.
    File {
        /// Its permissions, with setuid, setgid and sticky bits.
        mode: u32,
        /// The bytes.
        content: Content,
    },
    /// A symbolic link.
    Link {
        /// As it is written.
        target: String,
    },
    /// A named pipe or a device.
    Node {
        /// Which.
        node: Node,
        /// Its permissions.
        mode: u32,
    },
}

/// The bytes of a file, or their place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Content {
    /// Here.
    Bytes(Vec<u8>),
    /// In a file of this machine, with this BLAKE3 hash if one is given: it is an error when it has another by now.
    File {
        /// Absolute.
        path: Utf8PathBuf,
        /// In hex.
        blake3: Option<String>,
    },
}

/// COPY and ADD.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Copy {
    /// The tree that paths come from.
    pub tree: Tree,
    /// The sources that are copied, in order.
    pub sources: Vec<CopySource>,
    /// Absolute; a folder when it ends in `/`.
    pub target: String,
    /// `USER[:GROUP]` as the image knows them, or numbers; when not given: 0:0 for a context, as they are for a stack.
    pub chown: Option<String>,
    /// Mode of all files and folders.
    pub chmod: Option<u32>,
    /// Whether links in the target's path are left unfollowed.
    pub link: bool,
    /// Whether the path of a source is kept.
    pub parents: bool,
    /// Patterns of what is left out.
    pub excludes: Vec<String>,
    /// Whether tars are unpacked.
    pub unpack: bool,
}

/// One source of a copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum CopySource {
    /// A path of the tree, maybe with wildcards.
    Path(String),
    /// A file with this name and content.
    File {
        /// Its name.
        name: String,
        /// Its mode.
        mode: u32,
        /// Its time, in seconds since 1970; that of the step when not given.
        time: Option<i64>,
        /// Its bytes.
        content: Content,
    },
}

/// A layer that was packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The digest of the tar.
    pub diff_id: Digest,
    /// The digest of the blob.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// The blob's media type.
    pub media_type: MediaType,
    /// The tar's size in bytes.
    pub unpacked_size: u64,
}

/// A layer that is unpacked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unpack {
    /// The blob.
    pub blob: Utf8PathBuf,
    /// The layers below it, lowest first: they say what a folder that the layer does not mention is like.
    pub stack: Vec<Utf8PathBuf>,
    /// The folder that the layer is put into, which is not there yet.
    pub folder: Utf8PathBuf,
}

/// A layer that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The tar's size in bytes.
    pub size: u64,
}

/// Paths that are looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Look {
    /// The unpacked layers, lowest first.
    pub stack: Vec<Utf8PathBuf>,
    /// Absolute, in the image.
    pub paths: Vec<String>,
    /// Whether a link at the end of a path is followed.
    pub follow: bool,
}

/// A path in an image or container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// The kind of the entry.
    pub kind: EntryKind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// The kind of a path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file, with its content where that was asked for (`Look`).
    File(Vec<u8>),
    /// A folder.
    Folder,
    /// A symbolic link, and where it leads.
    Link(String),
    /// A device, a socket or a pipe.
    Other,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Container {
    /// Its id: also its host name (the first 12 digits).
    pub id: String,
    /// The unpacked layers, lowest first.
    pub stack: Vec<Utf8PathBuf>,
    /// Its own folder: `upper`, `work`, `state.json` (an [`Alive`]) and the socket `dial` are made in it.
    pub folder: Utf8PathBuf,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Absolute. It is made where it is missing.
    pub workdir: String,
    /// `USER[:GROUP]`, as the image knows them; empty for root.
    pub user: String,
    /// The volumes, which live longer than the container.
    pub volumes: Vec<Volume>,
    /// The paths that get a file system in memory.
    pub tmpfs: Vec<String>,
    /// The memory that the container may use, in bytes.
    pub memory: Option<u64>,
    /// The part of the processors that the container may use, in thousandths of one.
    pub cpus: Option<u32>,
    /// Whether the container's root file system can only be read.
    pub read_only: bool,
    /// Ports: the container's, and the address on this machine (port 0: a free one).
    pub ports: Vec<(u16, std::net::SocketAddr)>,
    /// Files that are mounted in it: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.
    pub files: BTreeMap<String, String>,
    /// The network of the container.
    pub network: Network,
}

/// A folder of this machine in a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// The folder, absolute. It is made where it is missing.
    pub path: Utf8PathBuf,
    /// Absolute, in the container.
    pub target: String,
    /// Whether the volume can only be read.
    pub read_only: bool,
    /// Whether the volume gets what the image has there, while it is empty.
    pub fill: bool,
}

/// A container that runs, as `state.json` in its folder tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Its process 1, as this machine numbers it.
    pub pid: i32,
    /// The time at which the process was started, in ticks since the machine was: numbers of processes come again.
    pub start: u64,
    /// Its control groups.
    pub groups: Vec<Utf8PathBuf>,
    /// Its ports, and where each is reached.
    pub ports: Vec<(u16, std::net::SocketAddr)>,
}

/// The end of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its exit code; 128 and the signal's number when it was killed.
    pub code: i64,
    /// Whether a process of the container was killed because its memory was not enough.
    pub out_of_memory: bool,
}

/// Why a program cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotStarted {
    /// There is none of this name.
    NoProgram(String),
    /// It is there, and cannot be executed.
    NotExecutable {
        /// What a shell ends with then: 126, or 127 when what the program needs to run is not there.
        code: i64,
        /// In words for people.
        message: String,
    },
}

/// A program that is run in a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    /// The container's folder.
    pub folder: Utf8PathBuf,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Absolute.
    pub workdir: String,
    /// `USER[:GROUP]`; empty for root.
    pub user: String,
}
