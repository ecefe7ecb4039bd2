//! `imgforge.lock`: which packages, by version and hash, each image adds to its parents; and which digests the images
//! from outside have.
//!
//! One line a fact, sorted, so that it merges as source code does; paths relative to a repository's root and no host
//! names, so that any mirror serves it.

mod canonical;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use camino::{Utf8Component, Utf8Path};
use imgforge_oci::Digest;
use imgforge_syntax::Span;
use kdl::{KdlDocument, KdlNode, KdlValue};
use serde::{Deserialize, Serialize};

pub use self::view::LockView;
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::kdl_text;
use crate::name::ImageName;
use crate::text::kdl as quoted;

/// The version of the file's form.
const VERSION: i128 = 1;

/// The file's first line.
const HEAD: &str = "// Written by `imgforge update`. Nothing in it is meant to be edited.\n";

/// The whole lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// BLAKE3 (hex) over what was asked for: sources and the requests of every image. When it does not fit the
    /// manifests any more, the lock is out of date.
    pub request: String,
    /// Images from outside by their references as written.
    pub externals: BTreeMap<String, LockedExternal>,
    /// Every locked package, sorted and each once.
    pub packages: Vec<LockedPackage>,
    /// For every image that asks for packages, those that it adds to its parents'.
    pub images: BTreeMap<ImageName, LockedImage>,
}

/// An image from outside the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedExternal {
    /// What its tag pointed to: an index of platforms, or one image.
    pub digest: Digest,
    /// By platform (`linux/amd64`, `linux/arm64/v8`): the digest of its image. An index has one for each, an image
    /// only that of the platform that it was locked for.
    pub platforms: BTreeMap<String, Digest>,
    /// The packages that it has, where an image puts packages on top of it; sorted.
    pub packages: BTreeSet<ForeignPackage>,
}

impl LockedExternal {
    /// Makes one of which only the digest is known.
    pub fn new(digest: Digest) -> Self {
        Self { digest, platforms: BTreeMap::new(), packages: BTreeSet::new() }
    }

    /// The digest that decides what an image for `platform` is built on: when an index moves for the sake of another
    /// platform, this one stays.
    pub fn digest_for(&self, platform: &str) -> &Digest {
        self.platforms.get(platform).unwrap_or(&self.digest)
    }
}

/// A package of an image from outside, as its dpkg database has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignPackage {
    /// Package name.
    pub name: String,
    /// Debian version, epoch included.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
}

impl ForeignPackage {
    /// As a package of `source` that is there: it has no file.
    pub fn installed(&self, source: &str) -> LockedPackage {
        LockedPackage {
            source: source.to_owned(),
            name: self.name.clone(),
            version: self.version.clone(),
            architecture: self.architecture.clone(),
            ..LockedPackage::default()
        }
    }
}

/// What one image adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedImage {
    /// The apt source.
    pub source: String,
    /// BLAKE3 (the first 16 hex digits) over what this image and its parents asked for.
    pub request: String,
    /// `NAME=VERSION` of entries of [`Lock::packages`], sorted.
    pub packages: Vec<String>,
}

/// One package file, as its repository's signed index describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockedPackage {
    /// The package source's name in the workspace.
    pub source: String,
    /// Package name.
    pub name: String,
    /// The version, as its repository writes it.
    pub version: String,
    /// `amd64` or `all`; of Alpine, `x86_64` or `noarch`.
    pub architecture: String,
    /// The suite that it was found in; of Alpine, the end of the repository's address (`v3.20/main`).
    pub suite: String,
    /// Path below the repository's root (`Filename` in the index).
    pub path: String,
    /// Size of the file in bytes.
    pub size: u64,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Of a package of Alpine, `C:` of the index, by which the index means this file: `Q1` and the SHA-1 of its control
    /// segment in base64. Empty for a package of Debian, whose indexes have the SHA-256.
    pub checksum: String,
    /// Whether it came from a security suite: one whose name ends in `-security`, or whose `Release` file says so.
    pub security: bool,
    /// The date of a signed index that had it, in UTC, as archives of earlier states are asked for it:
    /// `20261126T210000Z`. An index that is older than that of any package of its suite is a replayed one.
    pub indexed: Option<String>,
}

/// Whether a suite's name says that it is for security updates.
pub fn is_security_suite(name: &str) -> bool {
    name.ends_with("-security")
}

impl LockedPackage {
    /// Whether its line has to say that it came from a security suite: the suite's name does not.
    fn is_marked(&self) -> bool {
        self.security && !is_security_suite(&self.suite)
    }

    /// Whether two lines are of the same package, whichever index it was found in.
    fn is_same(&self, other: &Self) -> bool {
        Self { indexed: None, ..self.clone() } == Self { indexed: None, ..other.clone() }
    }

    /// `NAME=VERSION`: how an image's block names it.
    pub fn entry(&self) -> String {
        format!("{}={}", self.name, self.version)
    }
}

impl Lock {
    /// By suite, the date of the newest index that a package of this source was locked from.
    pub fn dates(&self, source: &str) -> BTreeMap<String, String> {
        let mut dates: BTreeMap<String, String> = BTreeMap::new();
        for package in self.packages.iter().filter(|package| package.source == source) {
            if let Some(date) = &package.indexed {
                let known = dates.entry(package.suite.clone()).or_default();
                if *known < *date {
                    known.clone_from(date);
                }
            }
        }
        dates
    }

    /// The file's text: the same for the same lock, bit for bit.
    pub fn to_kdl(&self) -> String {
        let mut text = String::from(HEAD);
        let _ = writeln!(text, "lock version={VERSION} request={}", quoted(&self.request));
        for (reference, external) in &self.externals {
            external.write(reference, &mut text);
        }
        for p in unique(self.packages.clone()) {
            let mark = if p.is_marked() { " security=#true" } else { "" };
            let checksum = match p.checksum.as_str() {
                "" => String::new(),
                checksum => format!(" checksum={}", quoted(checksum)),
            };
            let indexed =
                p.indexed.as_ref().map_or_else(String::new, |at| format!(" indexed={}", quoted(at)));
            let _ = writeln!(
                text,
                "package {} {} {} {} suite={} path={} size={} sha256={}{checksum}{mark}{indexed}",
                quoted(&p.source),
                quoted(&p.name),
                quoted(&p.version),
                quoted(&p.architecture),
                quoted(&p.suite),
                quoted(&p.path),
                p.size,
                quoted(&p.sha256)
            );
        }
        for (name, image) in &self.images {
            let (name, source, request) =
                (quoted(name.as_str()), quoted(&image.source), quoted(&image.request));
            let _ = writeln!(text, "image {name} source={source} request={request} {{");
            for package in image.packages.iter().collect::<BTreeSet<_>>() {
                let _ = writeln!(text, "    add {}", quoted(package));
            }
            text.push_str("}\n");
        }
        text
    }

    /// Reads a file's text. The order of its lines does not matter, and a line that is there twice counts once: so that
    /// a merge of two locks, line by line, is a lock.
    ///
    /// # Errors
    /// Every line that is not as [`to_kdl`](Self::to_kdl) writes it, and every package of an image that is not locked.
    pub fn read(text: &str, path: &Utf8Path) -> Result<Self, Problems> {
        if let Some(lock) = canonical::read(text) {
            return Ok(lock);
        }
        Self::read_kdl(text, path)
    }

    /// The same for any text, slowly and with problems.
    fn read_kdl(text: &str, path: &Utf8Path) -> Result<Self, Problems> {
        let file = Arc::new(SourceFile { path: path.to_owned(), text: text.to_owned() });
        if let Some(problem) = merge_conflict(&file) {
            return Err(problem.into());
        }
        let mut reader = Reader::new(&file);
        match kdl_text::parse(text) {
            Ok(document) => reader.document(&document),
            Err(error) => {
                for found in error.diagnostics {
                    let span = Span::new(found.span.offset(), found.span.len());
                    let message = found.message.unwrap_or_else(|| "this is not KDL".into());
                    let problem = Problem::at(&file, span, message, "here");
                    reader.problems.push(problem.help(REMEDY));
                }
            }
        }
        if !reader.problems.is_empty() {
            return Err(reader.problems);
        }
        let mut lock = reader.lock;
        lock.packages = unique(lock.packages);
        for image in lock.images.values_mut() {
            image.packages.sort();
            image.packages.dedup();
        }
        Ok(lock)
    }
}

/// Sorted, and each once: of two lines that differ in the index only, the later index counts.
fn unique(mut packages: Vec<LockedPackage>) -> Vec<LockedPackage> {
    packages.sort();
    packages.dedup_by(|later, kept| {
        let is_same = later.is_same(kept);
        if is_same {
            kept.indexed = later.indexed.take();
        }
        is_same
    });
    packages
}

impl LockedExternal {
    fn write(&self, reference: &str, text: &mut String) {
        let (reference, digest) = (quoted(reference), quoted(self.digest.as_str()));
        let _ = writeln!(text, "external {reference} digest={digest} {{");
        for (platform, digest) in &self.platforms {
            let _ = writeln!(text, "    platform {} {}", quoted(platform), quoted(digest.as_str()));
        }
        for ForeignPackage { name, version, architecture } in &self.packages {
            let (name, version) = (quoted(name), quoted(version));
            let _ = writeln!(text, "    has {name} {version} {}", quoted(architecture));
        }
        text.push_str("}\n");
    }
}

const REMEDY: &str = "`imgforge update` writes a new lock; after a merge, take either side first";

/// The first mark that git leaves where two sides changed the same lines.
fn merge_conflict(file: &Arc<SourceFile>) -> Option<Problem> {
    let mut at = 0;
    for line in file.text.split_inclusive('\n') {
        if ["<<<<<<<", ">>>>>>>", "======="].iter().any(|mark| line.starts_with(mark)) {
            let span = Span::new(at, line.trim_end().len());
            let problem = Problem::at(file, span, "the lock has an unfinished merge", "a mark of git's");
            return Some(problem.help("take either side of it, then run `imgforge update`"));
        }
        at += line.len();
    }
    None
}

struct Reader<'a> {
    file: &'a Arc<SourceFile>,
    problems: Problems,
    lock: Lock,
    head: bool,
    /// The packages by source and `NAME=VERSION`.
    locked: BTreeSet<(String, String)>,
    /// What images add, to be found among those.
    added: Vec<(String, String, Span)>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a Arc<SourceFile>) -> Self {
        let (locked, added) = (BTreeSet::new(), Vec::new());
        Self { file, problems: Problems::default(), lock: Lock::default(), head: false, locked, added }
    }

    fn problem(&mut self, span: Span, message: String, label: &str) {
        self.problems.push(Problem::at(self.file, span, message, label).help(REMEDY));
    }

    fn document(&mut self, document: &KdlDocument) {
        for node in document.nodes() {
            let read = match node.name().value() {
                "lock" => self.head(node),
                "external" => self.external(node),
                "package" => self.package(node),
                "image" => self.image(node),
                other => Err(format!("there is no \"{other}\" in a lock")),
            };
            if let Err(message) = read {
                self.problem(name_span(node), message, "here");
            }
        }
        if !self.head {
            let message = "the file does not start as a lock does".to_owned();
            self.problem(Span::new(0, 0), message, "lock version=1 request=\"...\" is expected");
        }
        for (source, entry, span) in std::mem::take(&mut self.added) {
            if !self.locked.contains(&(source.clone(), entry.clone())) {
                let message = format!("no package \"{entry}\" of \"{source}\" is locked");
                self.problem(span, message, "its line is missing");
            }
        }
    }

    fn head(&mut self, node: &KdlNode) -> Result<(), String> {
        if std::mem::replace(&mut self.head, true) {
            return Err("\"lock\" is there twice".into());
        }
        let version = node.get("version").and_then(KdlValue::as_integer);
        if version != Some(VERSION) {
            return Err(format!("this imgforge reads locks of version {VERSION}"));
        }
        only(node, 0, &["version", "request"])?;
        self.lock.request = property(node, "request")?;
        Ok(())
    }

    fn external(&mut self, node: &KdlNode) -> Result<(), String> {
        only(node, 1, &["digest"])?;
        let (reference, digest) = (argument(node, 0)?, property(node, "digest")?);
        let mut external = LockedExternal::new(digest.parse().map_err(|_| NO_DIGEST)?);
        for child in node.children().map_or(&[][..], KdlDocument::nodes) {
            if let Err(message) = external.take(child) {
                self.problem(name_span(child), message, "here");
            }
        }
        match self.lock.externals.get_mut(&reference) {
            None => {
                self.lock.externals.insert(reference, external);
            }
            Some(known) if known.digest == external.digest => {
                known.platforms.extend(external.platforms);
                known.packages.extend(external.packages);
            }
            Some(_) => return Err(format!("the external image \"{reference}\" is locked to two digests")),
        }
        Ok(())
    }

    fn package(&mut self, node: &KdlNode) -> Result<(), String> {
        only(node, 4, &["suite", "path", "size", "sha256", "checksum", "security", "indexed"])?;
        let security = match node.get("security") {
            None => false,
            Some(value) => value.as_bool().ok_or("security is neither #true nor #false")?,
        };
        let size = node.get("size").and_then(KdlValue::as_integer).and_then(|size| u64::try_from(size).ok());
        let sha256 = property(node, "sha256")?;
        if !is_sha256(&sha256) {
            return Err("sha256 is not 64 hex digits".into());
        }
        let path = property(node, "path")?;
        if !stays_below(&path) {
            return Err("path does not stay below the repository's root".into());
        }
        let indexed = match node.get("indexed") {
            None => None,
            Some(_) => Some(property(node, "indexed")?),
        };
        if indexed.as_ref().is_some_and(|at| !is_timestamp(at)) {
            return Err("indexed is not a time like 20261126T210000Z".into());
        }
        let suite = property(node, "suite")?;
        let package = LockedPackage {
            security: security || is_security_suite(&suite),
            source: argument(node, 0)?,
            name: argument(node, 1)?,
            version: argument(node, 2)?,
            architecture: argument(node, 3)?,
            suite,
            path,
            size: size.ok_or("size is not a number of bytes")?,
            sha256,
            checksum: match node.get("checksum") {
                None => String::new(),
                Some(_) => property(node, "checksum")?,
            },
            indexed,
        };
        self.locked.insert((package.source.clone(), package.entry()));
        self.lock.packages.push(package);
        Ok(())
    }

    fn image(&mut self, node: &KdlNode) -> Result<(), String> {
        only(node, 1, &["source", "request"])?;
        let name = ImageName::new(argument(node, 0)?).map_err(|error| error.to_string())?;
        let (source, request) = (property(node, "source")?, property(node, "request")?);
        let mut packages = Vec::new();
        for add in node.children().map_or(&[][..], KdlDocument::nodes) {
            match (add.name().value(), only(add, 1, &[])) {
                ("add", Ok(())) => {
                    let entry = argument(add, 0)?;
                    self.added.push((source.clone(), entry.clone(), name_span(add)));
                    packages.push(entry);
                }
                ("add", Err(message)) => self.problem(name_span(add), message, "here"),
                (other, _) => {
                    let message = format!("there is no \"{other}\" in an image of a lock");
                    self.problem(name_span(add), message, "here");
                }
            }
        }
        match self.lock.images.get_mut(&name) {
            None => {
                self.lock.images.insert(name, LockedImage { source, request, packages });
            }
            Some(known) if known.source == source && known.request == request => {
                known.packages.extend(packages);
            }
            Some(_) => return Err(format!("the image \"{name}\" is locked twice")),
        }
        Ok(())
    }
}

const NO_DIGEST: &str = "a digest is sha256: and 64 of the digits 0-9 and a-f";

impl LockedExternal {
    /// Takes in one line of its block.
    fn take(&mut self, node: &KdlNode) -> Result<(), String> {
        match node.name().value() {
            "platform" => {
                only(node, 2, &[])?;
                let digest = argument(node, 1)?.parse().map_err(|_| NO_DIGEST)?;
                self.platforms.insert(argument(node, 0)?, digest);
            }
            "has" => {
                only(node, 3, &[])?;
                let (name, version) = (argument(node, 0)?, argument(node, 1)?);
                self.packages.insert(ForeignPackage { name, version, architecture: argument(node, 2)? });
            }
            other => return Err(format!("there is no \"{other}\" in an external image of a lock")),
        }
        Ok(())
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `20261126T210000Z`.
fn is_timestamp(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 16 && text.bytes().enumerate().all(fits)
}

/// Whether a path stays below the folder that it is relative to.
fn stays_below(path: &str) -> bool {
    !path.is_empty() && Utf8Path::new(path).components().all(|part| matches!(part, Utf8Component::Normal(_)))
}

fn name_span(node: &KdlNode) -> Span {
    let span = node.name().span();
    Span::new(span.offset(), span.len())
}

/// Refuses what a node has beside so many values and these properties.
fn only(node: &KdlNode, values: usize, properties: &[&str]) -> Result<(), String> {
    let mut count = 0;
    for entry in node.entries() {
        match entry.name() {
            None => count += 1,
            Some(key) if properties.contains(&key.value()) => {}
            Some(key) => return Err(format!("\"{}\" has no {}=", node.name().value(), key.value())),
        }
    }
    if count > values {
        return Err(format!("\"{}\" has {count} values; {values} are expected", node.name().value()));
    }
    Ok(())
}

fn argument(node: &KdlNode, at: usize) -> Result<String, String> {
    let value = node.get(at).and_then(KdlValue::as_string);
    value.map(str::to_owned).ok_or_else(|| format!("\"{}\" lacks its value {}", node.name().value(), at + 1))
}

fn property(node: &KdlNode, name: &str) -> Result<String, String> {
    let value = node.get(name).and_then(KdlValue::as_string);
    value.map(str::to_owned).ok_or_else(|| format!("\"{}\" lacks {name}=", node.name().value()))
}
