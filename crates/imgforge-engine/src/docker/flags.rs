//! Values of flags as the Dockerfile frontends of all daemons read them.
//!
//! That of Docker 20.10 takes an octal number for `--chmod`, and passes over anything else without a word: the file
//! keeps the mode that it has. In `--mount` it expands no variables: `target=$DIR` mounts on a folder of that name,
//! and the `id` of a cache is the same whatever the variable. Newer ones expand both, and read symbolic modes since
//! Docker 28 (Dockerfile 1.14). So values that are known are sent as they are, and a daemon that might read another
//! one otherwise is not asked.

use std::collections::BTreeMap;

use imgforge_dockerfile::{Dockerfile, FlagValue, mode_of};

use crate::BuildError;

/// The first major version whose own frontend reads all of them.
const READS_ALL: u32 = 28;

/// The Dockerfile without variables in these values.
///
/// # Errors
/// [`BuildError::Source`] with the line of a value that a daemon of this version might read otherwise.
pub(super) fn expanded(
    text: String,
    args: &BTreeMap<String, String>,
    version: &str,
) -> Result<String, BuildError> {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= READS_ALL) || names_a_frontend(&text) {
        return Ok(text);
    }
    // What cannot be read is told by the daemon.
    let Ok(dockerfile) = Dockerfile::parse(&text) else { return Ok(text) };
    let mut text = text;
    for flag in dockerfile.flag_values(args).iter().rev() {
        let value = if flag.flag == "--chmod=" { number(flag) } else { mount(flag) };
        let value = value.map_err(|why| BuildError::Source { line: flag.line, why })?;
        if value != flag.written {
            let from = flag.span.offset as usize;
            text.replace_range(from..from + flag.span.len as usize, value);
        }
    }
    Ok(text)
}

fn number(flag: &FlagValue) -> Result<&str, String> {
    let value = known(flag)?;
    // An empty one is none.
    if !value.is_empty() {
        mode_of(value)?;
    }
    Ok(value)
}

/// Quotes hold the fields of a mount together, and stay where nothing is to be expanded.
fn mount(flag: &FlagValue) -> Result<&str, String> {
    if !flag.written.contains('$') {
        return Ok(&flag.written);
    }
    if flag.written.contains(['"', '\'', '\\', '`']) {
        return Err(format!(
            "{}{}: this Docker expands no variables here; beside quotes, write out what they stand for",
            flag.flag, flag.written
        ));
    }
    known(flag)
}

fn known(flag: &FlagValue) -> Result<&str, String> {
    flag.value.as_deref().ok_or_else(|| {
        format!(
            "{}{} is not known before the build, and this Docker does not expand it",
            flag.flag, flag.written
        )
    })
}

/// Returns whether the file is read by a frontend that it names itself (`# syntax=`).
fn names_a_frontend(text: &str) -> bool {
    let lines = text.trim_start_matches('\u{feff}').lines();
    let mut directives = lines.map_while(|line| line.trim().strip_prefix('#')?.split_once('='));
    directives.any(|(key, _)| key.trim().eq_ignore_ascii_case("syntax"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_are_written_out_and_others_are_refused_at_their_line() {
        let with = |text: &str, version: &str| expanded(text.into(), &BTreeMap::new(), version);
        let text = "FROM scratch\nARG M=0705\nCOPY --chmod=$M a b\nADD --chmod=\"06${X}40\" c --chmod=d /\n";
        let expected = "FROM scratch\nARG M=0705\nCOPY --chmod=0705 a b\nADD --chmod=0640 c --chmod=d /\n";
        assert_eq!(with(text, "20.10.24+dfsg1").unwrap(), expected);
        assert_eq!(with(text, "28.5.2").unwrap(), text);
        for (flag, why) in [
            ("u=rwx", "line 3: --chmod=u=rwx: symbolic modes"),
            ("89", "line 3: --chmod=89 is no mode"),
            ("$OF_BASE", "line 3: --chmod=$OF_BASE is not known before the build"),
        ] {
            let text = format!("FROM base\n# comment\nCOPY --chmod={flag} a b\n");
            let error = with(&text, "20.10.24").unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(with(&text, "28.0.0").unwrap(), text);
            let own = format!("# syntax=docker/dockerfile:1.14\n{text}");
            assert_eq!(with(&own, "20.10.24").unwrap(), own);
        }
        let mounts = "FROM x\nARG V=/v\nRUN --mount=type=bind,\"source=a,b\",target=/m --mount=type=cache,id=c$V,target=$V true\n";
        let expected = mounts.replace("id=c$V,target=$V", "id=c/v,target=/v");
        assert_eq!(with(mounts, "20.10.24").unwrap(), expected);
        for mount in ["target=$OF_BASE", "\"target=$V\""] {
            let text = format!("FROM x\nARG V=/v\nRUN --mount={mount} true\n");
            let error = with(&text, "20.10.24").unwrap_err().to_string();
            assert!(error.contains(&format!("line 3: --mount={mount}")), "{error}");
        }
    }
}
