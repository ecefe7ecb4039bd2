//! COPY and ADD.

use imgforge_syntax::Span;

use super::{Done, Evaluator, missing};
use crate::program::instruction::{CopyLine, Missing, Word, problem};
use crate::program::shell::{self, Rules};
use crate::program::{Action, Copy, CopySource, From, golang};
use crate::{ParseProblem, mode_of};

impl Evaluator<'_> {
    pub(super) fn copy(&self, line: &CopyLine, span: Span) -> Result<Done, Missing> {
        let keyword = if line.is_add { "ADD" } else { "COPY" };
        if let Some(span) = line.keep_git_dir {
            return Err(problem(span, "git sources are not supported here, nor --keep-git-dir", None).into());
        }
        let from = line.from.as_ref().map(|word| self.source(word)).transpose()?;
        if from.as_ref().is_some_and(|from| *from == From::Image("scratch".into())) {
            return Err(problem(span, "scratch is empty: there is nothing to copy from it", None).into());
        }
        let some = |word: &Option<Word>| match word {
            Some(word) => Ok(Some(self.expand(word)?).filter(|text| !text.is_empty())),
            None => Ok::<_, Missing>(None),
        };
        let chown = some(&line.chown)?;
        let chmod_text = some(&line.chmod)?;
        let chmod = match (&chmod_text, &line.chmod) {
            (Some(text), Some(word)) => Some(octal(text, word.span)?),
            _ => None,
        };
        let checksum = some(&line.checksum)?;
        if let (Some(text), Some(word)) = (&checksum, &line.checksum) {
            check_checksum(text, word.span)?;
        }
        let mut text = keyword.to_owned();
        if line.parents {
            text.push_str(" --parents");
        }
        for (name, value) in [("chown", &chown), ("chmod", &chmod_text)] {
            if let Some(value) = value {
                text.push_str(&format!(" --{name}={value}"));
            }
        }
        let mut sources = Missing::all(line.sources.iter().map(|word| {
            let source = self.expand(word)?;
            text.push_str(&format!(" {source}"));
            Ok(copy_source(line, &source, checksum.as_ref(), word.span)?)
        }))?;
        let is_url = |source: &CopySource| matches!(source, CopySource::Url { .. });
        if let (Some(_), Some(word)) = (&checksum, &line.checksum)
            && !(matches!(sources.as_slice(), [one] if is_url(one)))
        {
            return Err(problem(word.span, "--checksum goes with exactly one URL", None).into());
        }
        if let Some((true, span)) = line.unpack
            && sources.iter().any(is_url)
        {
            return Err(problem(span, "what is fetched cannot be unpacked here: --unpack", None).into());
        }
        for heredoc in &line.inline {
            text.push_str(&format!(" <<{}", heredoc.name));
            let mut content = heredoc.stripped();
            if heredoc.expand {
                let rules = Rules { ignore_quotes: true, ..Rules::new('\\') };
                content = missing(shell::word(&content, rules, &|name| self.scope.lookup(name)), span)?;
            }
            sources.push(CopySource::Inline { name: heredoc.name.clone(), content });
        }
        let target = line.target.as_ref().ok_or_else(Missing::unknown)?;
        let written = self.expand(target)?;
        let is_folder = sources.len() > 1
            || matches!(written.as_str(), "" | ".")
            || written.ends_with('/')
            || written.ends_with("/.");
        let mut path = if written.starts_with('/') {
            golang::clean(&written)
        } else {
            golang::join(&self.current_dir().ok_or_else(Missing::unknown)?, &written)
        };
        if is_folder && path != "/" {
            path.push('/');
        }
        text.push_str(&format!(" {written} # buildkit"));
        // What is not unpacked is copied.
        let is_add = line.is_add && !matches!(line.unpack, Some((false, _)) if !sources.iter().any(is_url));
        let action = Action::Copy(Copy {
            is_add,
            from: from.unwrap_or(From::Context),
            sources,
            target: path,
            chown,
            chmod,
            link: line.link,
            parents: line.parents,
            excludes: line.excludes.clone(),
        });
        Ok(Done { action: Some(action), created_by: text, counts: true })
    }
}

fn octal(text: &str, span: Span) -> Result<u32, ParseProblem> {
    let help = Some("an octal number up to 7777, such as 0644");
    mode_of(text).map_err(|message| problem(span, message, help))
}

fn check_checksum(text: &str, span: Span) -> Result<(), ParseProblem> {
    let is_hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match text.strip_prefix("sha256:") {
        Some(hex) if is_hex(hex) => Ok(()),
        _ => Err(problem(span, format!("{text} is no checksum"), Some("sha256: and 64 hexadecimal digits"))),
    }
}

/// What a source of COPY or ADD names.
fn copy_source(
    line: &CopyLine,
    source: &str,
    checksum: Option<&String>,
    span: Span,
) -> Result<CopySource, ParseProblem> {
    if is_git(source) {
        let message =
            if line.is_add { "git sources are not supported here" } else { "COPY takes no git source" };
        return Err(problem(span, message, Some("fetch it before the build, or with RUN git clone")));
    }
    if is_web(source) {
        if !line.is_add {
            return Err(problem(span, "COPY takes no URL", Some("ADD does")));
        }
        return Ok(CopySource::Url { url: source.to_owned(), checksum: checksum.cloned() });
    }
    let relative = |path: &str| golang::join("/", path)[1..].to_owned();
    // `--parents` keeps what stands after `/./`.
    if let (true, Some((above, below))) = (line.parents, source.split_once("/./")) {
        let (above, below) = (relative(above), relative(below));
        return Ok(CopySource::Path(if above.is_empty() { below } else { format!("{above}/./{below}") }));
    }
    let path = relative(source);
    Ok(CopySource::Path(if path.is_empty() { ".".into() } else { path }))
}

/// Whether a source is fetched, and nothing is read from the context for it.
pub(crate) fn is_address(source: &str) -> bool {
    is_git(source) || is_web(source)
}

fn is_web(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// BuildKit's `ParseGitRef`: an http(s) URL of a path that ends in `.git`, any `git://` or `ssh://`, `user@host:path`.
fn is_git(source: &str) -> bool {
    if let Some((scheme, rest)) = source.split_once("://") {
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        let path = path.split_once('/').map_or("", |(_, path)| path);
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => true,
            "http" | "https" => path.ends_with(".git"),
            _ => false,
        };
    }
    let Some((user, rest)) = source.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let is_name = |text: &str, others: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
    };
    is_name(user, "-_") && is_name(host, "-.")
}
