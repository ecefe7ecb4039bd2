//! The tests of an image, the hash over what they ask, and what came of one. Which an image has is known once manifests
//! are [resolved](crate::workspace).
//!
//! Tests are no input of an image: changing one rebuilds nothing. What they ask has a hash of its own, so that an image
//! whose tests have passed is not tested again until they ask something else.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use imgforge_syntax::Span;

use crate::diagnostic::SourceFile;
use crate::graph::ImageGraph;
use crate::manifest::Check;
use crate::name::ImageName;
use crate::workspace::{Image, ImageTest, Workspace, tests_of_chain};

/// Raised when the same tests would find out something else.
const VERSION: u32 = 1;

/// The tests of `name`: those that it inherits first, each image's in the order of its manifest.
pub fn of(workspace: &Workspace, graph: &ImageGraph, name: &ImageName) -> Vec<ImageTest> {
    let chain: Vec<&Image> = graph.chain(name).into_iter().map(|name| &workspace.images[name]).collect();
    tests_of_chain(workspace, &chain)
}

/// A hash over all that the tests of an image ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TestsHash([u8; 32]);

impl TestsHash {
    /// Over `tests`, which are run in containers with these limits (which are no input of the image).
    pub fn of(tests: &[ImageTest], memory: Option<u64>, cpus: Option<u32>) -> Self {
        let asked: Vec<_> = tests
            .iter()
            .map(|test| {
                let checks: Vec<&Check> = test.test.checks.iter().map(|check| &check.value).collect();
                (&test.name, test.test.timeout, test.starts, checks)
            })
            .collect();
        let bytes = postcard::to_stdvec(&(VERSION, asked, memory, cpus)).expect("plain data has a form");
        Self(blake3::derive_key("imgforge 2026 tests", &bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq)]
pub struct TestResult {
    /// Its name.
    pub name: String,
    /// The image whose manifest has it.
    pub declared: ImageName,
    /// That manifest.
    pub file: Arc<SourceFile>,
    /// The node in it.
    pub span: Span,
    /// How many checks it has.
    pub checks: usize,
    /// What did not hold; none when it passed.
    pub failures: Vec<CheckFailure>,
    /// The last lines of the container's log, when it failed and there were any.
    pub log: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl TestResult {
    /// Whether everything held.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// A check that did not hold.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckFailure {
    /// The check as it stands in the manifest.
    pub check: String,
    /// Its place in the test's file.
    pub span: Span,
    /// What was expected, in a few words: `status 200`.
    pub expected: String,
    /// What was found instead.
    pub found: String,
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

#[cfg(test)]
mod tests;
