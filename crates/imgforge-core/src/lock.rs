//! `imgforge.lock`: which packages, by version and hash, each image adds to its parents.
//!
//! One line a fact, sorted, so that it merges as source code does; paths relative to a repository's root and no host
//! names, so that any mirror serves it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use camino::Utf8Path;
use kdl::{KdlDocument, KdlNode, KdlValue};
use serde::{Deserialize, Serialize};

use crate::diagnostic::{Problem, Problems, SourceFile, Span};
use crate::name::ImageName;

/// The version of the file's form.
const VERSION: i128 = 1;

/// The whole lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// BLAKE3 (hex) over what was asked for: sources and the requests of every image. When it does not fit the
    /// manifests any more, the lock is out of date.
    pub request: String,
    /// Every locked package, sorted and each once.
    pub packages: Vec<LockedPackage>,
    /// For every image that asks for packages, those that it adds to its parents'.
    pub images: BTreeMap<ImageName, LockedImage>,
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockedPackage {
    /// The apt source's name in the workspace.
    pub source: String,
    /// Package name.
    pub name: String,
    /// Debian version, epoch included.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// The suite that it was found in.
    pub suite: String,
    /// Path below the repository's root (`Filename` in the index).
    pub path: String,
    /// Size of the file in bytes.
    pub size: u64,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
}

impl Lock {
    /// The file's text: the same for the same lock, bit for bit.
    pub fn to_kdl(&self) -> String {
        let mut text =
            String::from("// Written by `imgforge update`. Nothing in it is meant to be edited.\n");
        let _ = writeln!(text, "lock version={VERSION} request={}", quoted(&self.request));
        let mut packages: Vec<&LockedPackage> = self.packages.iter().collect();
        packages.sort();
        packages.dedup();
        for p in packages {
            let _ = writeln!(
                text,
                "package {} {} {} {} suite={} path={} size={} sha256={}",
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
            for package in &image.packages {
                let _ = writeln!(text, "    add {}", quoted(package));
            }
            text.push_str("}\n");
        }
        text
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// Every line that is not as [`to_kdl`](Self::to_kdl) writes it.
    pub fn read(text: &str, path: &Utf8Path) -> Result<Self, Problems> {
        let file = Arc::new(SourceFile { path: path.to_owned(), text: text.to_owned() });
        let mut reader = Reader { file: &file, problems: Problems::default(), lock: Self::default() };
        match KdlDocument::parse_v2(text) {
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
        if reader.problems.is_empty() { Ok(reader.lock) } else { Err(reader.problems) }
    }
}

const REMEDY: &str = "after a merge, take either side and run `imgforge update`";

/// A KDL string: JSON's escapes are among KDL's, but `/` needs none and control characters are written `\u{...}`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

struct Reader<'a> {
    file: &'a Arc<SourceFile>,
    problems: Problems,
    lock: Lock,
}

impl Reader<'_> {
    fn document(&mut self, document: &KdlDocument) {
        for node in document.nodes() {
            let read = match node.name().value() {
                "lock" => self.head(node),
                "package" => self.package(node),
                "image" => self.image(node),
                other => Err(format!("there is no \"{other}\" in a lock")),
            };
            if let Err(message) = read {
                let span = node.name().span();
                let problem = Problem::at(self.file, Span::new(span.offset(), span.len()), message, "here");
                self.problems.push(problem.help(REMEDY));
            }
        }
    }

    fn head(&mut self, node: &KdlNode) -> Result<(), String> {
        let version = node.get("version").and_then(KdlValue::as_integer);
        if version != Some(VERSION) {
            return Err(format!("this imgforge reads locks of version {VERSION}"));
        }
        self.lock.request = property(node, "request")?;
        Ok(())
    }

    fn package(&mut self, node: &KdlNode) -> Result<(), String> {
        let size = node.get("size").and_then(KdlValue::as_integer).and_then(|size| u64::try_from(size).ok());
        let sha256 = property(node, "sha256")?;
        if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err("sha256 is not 64 hex digits".into());
        }
        self.lock.packages.push(LockedPackage {
            source: argument(node, 0)?,
            name: argument(node, 1)?,
            version: argument(node, 2)?,
            architecture: argument(node, 3)?,
            suite: property(node, "suite")?,
            path: property(node, "path")?,
            size: size.ok_or("size is not a number of bytes")?,
            sha256,
        });
        Ok(())
    }

    fn image(&mut self, node: &KdlNode) -> Result<(), String> {
        let name = ImageName::new(argument(node, 0)?).map_err(|error| error.to_string())?;
        let adds = node.children().map_or(&[][..], KdlDocument::nodes);
        let packages = adds.iter().map(|add| argument(add, 0)).collect::<Result<_, _>>()?;
        let image =
            LockedImage { source: property(node, "source")?, request: property(node, "request")?, packages };
        self.lock.images.insert(name, image);
        Ok(())
    }
}

fn argument(node: &KdlNode, at: usize) -> Result<String, String> {
    let value = node.get(at).and_then(KdlValue::as_string);
    value.map(str::to_owned).ok_or_else(|| format!("\"{}\" lacks its value {}", node.name().value(), at + 1))
}

fn property(node: &KdlNode, name: &str) -> Result<String, String> {
    let value = node.get(name).and_then(KdlValue::as_string);
    value.map(str::to_owned).ok_or_else(|| format!("\"{}\" lacks {name}=", node.name().value()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_lock() -> impl Strategy<Value = Lock> {
        let text = || "[a-z0-9.+~:\\\\\"\u{e9}\u{1}-]{1,8}";
        let package = (text(), text(), text(), text(), 0..u64::MAX / 2, "[0-9a-f]{64}").prop_map(
            |(source, name, version, path, size, sha256)| LockedPackage {
                source,
                name,
                version,
                architecture: "amd64".into(),
                suite: "bookworm".into(),
                path,
                size,
                sha256,
            },
        );
        let packages =
            proptest::collection::btree_set(package, 0..5).prop_map(|set| set.into_iter().collect());
        let names = proptest::collection::vec(text(), 0..4);
        let image = ("[a-z]{1,5}", text(), names).prop_map(|(name, source, packages)| {
            (ImageName::new(name).unwrap(), LockedImage { source, request: "0123".into(), packages })
        });
        let images = proptest::collection::vec(image, 0..4).prop_map(|images| images.into_iter().collect());
        ("[0-9a-f]{64}", packages, images).prop_map(|(request, packages, images)| Lock {
            request,
            packages,
            images,
        })
    }

    proptest! {
        #[test]
        fn a_lock_reads_back_and_is_written_again_bit_for_bit(lock in any_lock()) {
            let text = lock.to_kdl();
            let read = Lock::read(&text, Utf8Path::new("imgforge.lock")).unwrap();
            prop_assert_eq!(&read, &lock);
            prop_assert_eq!(read.to_kdl(), text);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = Lock::read(&text, Utf8Path::new("imgforge.lock"));
        }
    }

    #[test]
    fn every_wrong_line_is_a_problem_with_its_place() {
        let text = "lock version=2 request=\"x\"\npackage \"debian\" \"a\"\npakage\n<<<<<<< ours\n";
        let problems = Lock::read(text, Utf8Path::new("imgforge.lock")).unwrap_err().sorted();
        let places: Vec<_> = problems.iter().filter_map(Problem::place).collect();
        assert_eq!(places, ["imgforge.lock:1", "imgforge.lock:2", "imgforge.lock:3", "imgforge.lock:4"]);
    }
}
