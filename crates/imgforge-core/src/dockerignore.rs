//! `.dockerignore`, with the meaning that moby's patternmatcher gives it.

use std::io;

use camino::Utf8Path;
use regex::Regex;

use crate::glob::Class;
use crate::source::{Source, clean};

/// The patterns of one image folder, in order; the last that matches decides.
#[derive(Debug, Default)]
pub struct DockerIgnore {
    rules: Vec<(Pattern, bool)>,
}

impl DockerIgnore {
    /// Reads what stands beside the Dockerfile under its name and `.dockerignore`, or else `.dockerignore` in `dir`;
    /// empty when there is neither. As in BuildKit, an empty file is none.
    pub(crate) fn read(
        source: &dyn Source,
        dir: &Utf8Path,
        dockerfile: Option<&Utf8Path>,
    ) -> io::Result<Self> {
        let own = dockerfile.map(|path| format!("{path}.dockerignore").into());
        for path in own.into_iter().chain([dir.join(".dockerignore")]) {
            match source.read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
                    return Self::parse(&String::from_utf8_lossy(&bytes)).map_err(named);
                }
            }
        }
        Ok(Self::default())
    }

    /// Reads patterns, one a line.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn parse(text: &str) -> io::Result<Self> {
        let mut rules = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let pattern = line.trim();
            if line.starts_with('#') || pattern.is_empty() {
                continue;
            }
            let (pattern, excludes) = match pattern.strip_prefix('!') {
                Some(rest) => (rest.trim(), false),
                None => (pattern, true),
            };
            let broken = || io::Error::other(format!("\"{}\" is no pattern", line.trim()));
            if pattern.is_empty() {
                return Err(broken());
            }
            // What leads outside matches nothing, and `.` neither.
            let Some(cleaned) = clean(pattern).filter(|path| !path.as_str().is_empty()) else { continue };
            rules.push((Pattern::new(cleaned.as_str()).ok_or_else(broken)?, excludes));
        }
        Ok(Self { rules })
    }

    /// Whether the path, or a folder that it lies in, is excluded.
    pub fn excludes(&self, path: &Utf8Path) -> bool {
        let hit = |pattern: &Pattern| {
            path.ancestors().any(|part| !part.as_str().is_empty() && pattern.matches(part.as_str()))
        };
        self.rules.iter().rev().find(|(pattern, _)| hit(pattern)).is_some_and(|(_, excludes)| *excludes)
    }

    /// Whether something inside an excluded folder may be in after all.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|(_, excludes)| !excludes)
    }
}

/// One pattern. As in moby, the simplest forms are no expressions, and mean something else than these would: `**.log`
/// is whatever ends in `.log`, while the `**` of `**.log*` stands for whole folders.
#[derive(Debug)]
enum Pattern {
    /// The path itself.
    Exact(String),
    /// Whatever begins so: `dir/**`.
    Prefix(String),
    /// Whatever ends so: `**.log`; of `**/name`, the path `name` too.
    Suffix(String),
    Expression(Regex),
}

impl Pattern {
    /// Reads a pattern, as patternmatcher's `compile` does; `None` for one that Go's `filepath.Match` refuses.
    fn new(pattern: &str) -> Option<Self> {
        let chars: Vec<char> = pattern.chars().collect();
        let mut rest = chars.as_slice();
        let mut expression = String::from("^");
        let (mut is_exact, mut is_expression, mut is_prefix) = (true, false, false);
        let is_suffix = pattern.starts_with("**");
        let mut is_first = true;
        while let Some((c, after)) = rest.split_first() {
            rest = after;
            match c {
                '*' if rest.first() == Some(&'*') => {
                    rest = &rest[1..];
                    // `**/` is as `**`.
                    rest = rest.strip_prefix(&['/']).unwrap_or(rest);
                    if rest.is_empty() && is_exact {
                        is_prefix = true;
                    } else if rest.is_empty() {
                        expression.push_str(".*");
                        is_expression = true;
                    } else {
                        expression.push_str("(.*/)?");
                        is_expression |= !is_first;
                    }
                    is_exact = false;
                }
                '*' | '?' => {
                    expression.push_str(if *c == '*' { "[^/]*" } else { "[^/]" });
                    (is_exact, is_expression) = (false, true);
                }
                '[' => {
                    let (class, after) = Class::read(rest)?;
                    rest = after;
                    expression.push_str(&class.expression());
                    (is_exact, is_expression) = (false, true);
                }
                '\\' => {
                    let (literal, after) = rest.split_first()?;
                    rest = after;
                    expression.push_str(&regex::escape(&literal.to_string()));
                    (is_exact, is_expression) = (false, true);
                }
                c => expression.push_str(&regex::escape(&c.to_string())),
            }
            is_first = false;
        }
        Some(if is_expression {
            Self::Expression(Regex::new(&format!("{expression}$")).ok()?)
        } else if is_suffix {
            Self::Suffix(pattern[2..].to_owned())
        } else if is_prefix {
            Self::Prefix(pattern.trim_end_matches('*').to_owned())
        } else {
            Self::Exact(pattern.to_owned())
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(name) => path == name,
            Self::Prefix(start) => path.starts_with(start),
            Self::Suffix(end) => path.ends_with(end) || end.strip_prefix('/') == Some(path),
            Self::Expression(expression) => expression.is_match(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn excludes(pattern: &str, path: &str) -> bool {
        DockerIgnore::parse(pattern).unwrap().excludes(Utf8Path::new(path))
    }

    #[test]
    fn the_last_match_decides_and_folders_cover_what_lies_in_them() {
        let text = "# comment\n*.log\n**/tmp\n/build\n! /build/keep.txt\nsub/*\n{x}\n #y\n";
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
            ("#y", true),
        ] {
            assert_eq!(ignore.excludes(Utf8Path::new(path)), expected, "{path}");
        }
    }

    /// The facts of moby's own tests (github.com/moby/patternmatcher, `patternmatcher_test.go`): a pattern, a path, and
    /// whether it is excluded. A path ends in no slash here.
    const FACTS: &[(&str, &str, bool)] = &[
        ("**", "file", true),
        ("**/", "file", true),
        ("**", "dir/file", true),
        ("**/", "dir/file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true),
        ("**/dir", "dir", true),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/**", "dir/dir2/dir3/file", true),
        ("**file", "file", true),
        ("**file", "dir/file", true),
        ("**/file", "dir/file", true),
        ("**file", "dir/dir/file", true),
        ("**/file", "dir/dir/file", true),
        ("**/file*", "dir/dir/file", true),
        ("**/file*", "dir/dir/file.txt", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/file*.txt", "dir/dir/file.txt", true),
        ("**/file*.txt*", "dir/dir/file.txt", true),
        ("**/**/*.txt", "dir/dir/file.txt", true),
        ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("**/*.txt", "file.txt", true),
        ("**/**/*.txt", "file.txt", true),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/file.txt", true),
        ("a**/*.txt", "a/dir/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt", "a/file.txt", true),
        ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ae", false),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcdef", false),
        ("abc.def", "abc.def", true),
        ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true),
        ("abc?def", "abcdef", false),
        ("a\\\\", "a\\", true),
        ("**/foo/bar", "foo/bar", true),
        ("**/foo/bar", "dir/foo/bar", true),
        ("**/foo/bar", "dir/dir2/foo/bar", true),
        ("abc/**", "abc", false),
        ("abc/**", "abc/def", true),
        ("abc/**", "abc/def/ghi", true),
        ("**/.foo", ".foo", true),
        ("**/.foo", "bar.foo", false),
        ("a(b)c/def", "a(b)c/def", true),
        ("a(b)c/def", "a(b)c/xyz", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        (
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            true,
        ),
        ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
        ("a\\*b", "a*b", true),
        // Those that its authors took from Go's `filepath.Match`.
        ("abc", "abc", true),
        ("*", "abc", true),
        ("*c", "abc", true),
        ("a*", "a", true),
        ("a*", "abc", true),
        ("a*", "ab/c", true),
        ("a*/b", "abc/b", true),
        ("a*/b", "a/c/b", false),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
        ("a*b?c*x", "abxbbxdbxebxczzx", true),
        ("a*b?c*x", "abxbbxdbxebxczzy", false),
        ("ab[c]", "abc", true),
        ("ab[b-d]", "abc", true),
        ("ab[e-g]", "abc", false),
        ("ab[^c]", "abc", false),
        ("ab[^b-d]", "abc", false),
        ("ab[^e-g]", "abc", true),
        ("a\\*b", "ab", false),
        ("a?b", "a☺b", true),
        ("a[^a]b", "a☺b", true),
        ("a???b", "a☺b", false),
        ("a[^a][^a][^a]b", "a☺b", false),
        ("[a-ζ]*", "α", true),
        ("*[a-ζ]", "A", false),
        ("a?b", "a/b", false),
        ("a*b", "a/b", false),
        ("[\\]a]", "]", true),
        ("[\\-]", "-", true),
        ("[x\\-]", "x", true),
        ("[x\\-]", "-", true),
        ("[x\\-]", "z", false),
        ("[\\-x]", "x", true),
        ("[\\-x]", "-", true),
        ("[\\-x]", "a", false),
        ("*x", "xxx", true),
        // What follows from its rules.
        ("**.pyc", "x/y/c.pyc", true),
        ("x/**y", "x/a/by", false),
        ("x/**y", "x/a/y", true),
        ("x/**y", "x/y", true),
        ("**y*", "ay", false),
        ("**y*", "a/yes", true),
        ("[!a]", "!", true),
        ("[!a]", "a", true),
        ("[!a]", "b", false),
        ("a**", "a", true),
        ("a**", "abc/d", true),
    ];

    #[test]
    fn patterns_mean_what_they_mean_to_moby() {
        let wrong: Vec<_> =
            FACTS.iter().filter(|(pattern, path, expected)| excludes(pattern, path) != *expected).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let many = |patterns: &[&str], path: &str| excludes(&patterns.join("\n"), path);
        assert!(!many(&["**", "!util/docker/web"], "util/docker/web/foo"));
        assert!(many(&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo"));
        let wheel = "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl";
        assert!(!many(&["**", &format!("!{wheel}")], wheel));
        assert!(!many(&["**", "!dist/*.whl"], wheel));
        assert!(many(&["!fileutils.go", "*.go"], "fileutils.go"));
        assert!(!many(&["docs/", "!docs/README.md"], "docs/README.md"));
        assert!(!many(&["docs/*", "!docs/README.md"], "docs/README.md"));
    }

    #[test]
    fn what_go_takes_for_no_pattern_is_refused() {
        for pattern in
            ["!", "! ", "[]a]", "[-]", "[x-]", "[-x]", "a\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "[&&~~--]"]
        {
            let error = DockerIgnore::parse(pattern).unwrap_err().to_string();
            assert_eq!(error, format!("\"{}\" is no pattern", pattern.trim()));
        }
    }

    proptest! {
        #[test]
        fn any_line_is_a_pattern_or_refused(text in "[a-c*?\\[\\]^!\\\\/.#{}&~-]{0,12}", path in "[a-c./]{1,6}") {
            if let Ok(ignore) = DockerIgnore::parse(&text) {
                let _ = ignore.excludes(Utf8Path::new(&path));
            }
        }
    }
}
