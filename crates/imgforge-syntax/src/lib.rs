//! What every reader of a text shares, whatever it is that it reads: places, words that were meant, lists of fields.
//!
//! Manifests and Dockerfiles are read by crates that know nothing of each other, and their problems are shown in one
//! way. So what a problem points at lies below both.

pub mod csv;

use serde::{Deserialize, Serialize};

/// A place in one file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Span {
    /// Where it starts, in bytes from the start of the file.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

impl Span {
    /// Returns the span of `len` bytes at `offset`; files beyond 4 GiB are not read.
    pub fn new(offset: usize, len: usize) -> Self {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { offset: clamp(offset), len: clamp(len) }
    }
}

/// A value and the place in its file that it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands in its file.
    pub span: Span,
}

impl<T> Located<T> {
    /// Returns `value` as found at `span`.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

/// Returns the known word nearest to `word`, for "did you mean": at most a third of its letters differ.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_the_nearest_word() {
        assert_eq!(nearest("webap-base", ["os-base", "webapp-base"]), Some("webapp-base"));
        assert_eq!(nearest("completely", ["os-base", "webapp-base"]), None);
    }
}
