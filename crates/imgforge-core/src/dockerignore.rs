//! `.dockerignore`, with the meaning that moby's patternmatcher gives it.

use std::io;

use camino::Utf8Path;
use globset::{GlobBuilder, GlobMatcher};

use crate::context::clean;
use crate::source::Source;

/// The patterns of one image folder, in order; the last that matches decides.
#[derive(Debug, Default)]
pub struct DockerIgnore {
    rules: Vec<(GlobMatcher, bool)>,
}

impl DockerIgnore {
    /// Reads `.dockerignore` in `dir`; empty when there is none.
    pub(crate) fn read(source: &dyn Source, dir: &Utf8Path) -> io::Result<Self> {
        match source.read(&dir.join(".dockerignore")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
            Ok(bytes) => Self::parse(&String::from_utf8_lossy(&bytes)),
        }
    }

    /// Reads patterns, one a line.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn parse(text: &str) -> io::Result<Self> {
        let mut rules = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (pattern, excludes) = match line.strip_prefix('!') {
                Some(rest) => (rest.trim(), false),
                None => (line, true),
            };
            let Some(cleaned) = clean(pattern) else { continue };
            // `{` has no meaning in these patterns.
            let escaped = cleaned.as_str().replace('{', "\\{").replace('}', "\\}");
            let glob = GlobBuilder::new(&escaped).literal_separator(true).backslash_escape(true).build();
            let glob = glob.map_err(|error| {
                io::Error::other(format!(".dockerignore: the pattern \"{line}\": {error}"))
            })?;
            rules.push((glob.compile_matcher(), excludes));
        }
        Ok(Self { rules })
    }

    /// Whether the path, or a folder that it lies in, is excluded.
    pub fn excludes(&self, path: &Utf8Path) -> bool {
        let hit = |glob: &GlobMatcher| {
            path.ancestors().any(|part| !part.as_str().is_empty() && glob.is_match(part))
        };
        self.rules.iter().rev().find(|(glob, _)| hit(glob)).is_some_and(|(_, excludes)| *excludes)
    }

    /// Whether something inside an excluded folder may be in after all.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|(_, excludes)| !excludes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_match_decides_and_folders_cover_what_lies_in_them() {
        let text = "# comment\n*.log\n**/tmp\n/build\n!build/keep.txt\nsub/*\n{x}\n";
        let ignore = DockerIgnore::parse(text).unwrap();
        for (path, expected) in [
            ("a.log", true),
            ("d/a.log", false),
            ("tmp", true),
            ("a/b/tmp/c", true),
            ("build/x", true),
            ("build/keep.txt", false),
            ("sub", false),
            ("sub/a/b", true),
            ("{x}", true),
            ("x", false),
        ] {
            assert_eq!(ignore.excludes(Utf8Path::new(path)), expected, "{path}");
        }
    }
}
