//! What all templates have in common, those of Dockerfiles, of services and of exports: how their text is read, and how
//! much one may do, since a workspace that may be somebody else's brings its own.

use std::error::Error as _;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind, Template, Value};

/// How many steps (minijinja's instructions) a template may take. The built-in ones take some hundreds for an image.
pub(crate) const FUEL: u64 = 10_000_000;
/// What a template may write, in bytes. The longest Dockerfile of the example family has 3 kB.
const OUTPUT: usize = 16 << 20;

/// Renders a template, within [`FUEL`] (of its environment) and [`OUTPUT`].
///
/// # Errors
/// What is wrong with the template, and a limit that it goes beyond.
pub(crate) fn bounded(template: &Template<'_, '_>, values: &Value) -> Result<String, Error> {
    let mut out = Bounded(Vec::new());
    template.render_captured_to(values, &mut out)?;
    String::from_utf8(out.0).map_err(|_| Error::new(ErrorKind::WriteFailure, "it is not UTF-8"))
}

/// What is wrong with a template, in words.
pub(crate) fn describe(error: &Error) -> String {
    let mut cause = error;
    // What another template has been included for is not what is wrong.
    while let Some(deeper) = cause.source().and_then(|source| source.downcast_ref::<Error>()) {
        cause = deeper;
    }
    let why = match (cause.kind(), cause.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("it takes more than {FUEL} steps, the most that one may"),
        (ErrorKind::WriteFailure, _) => {
            format!("it writes more than {} MiB, the most that one may", OUTPUT >> 20)
        }
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    format!("the template cannot be rendered: {why}")
}

/// A text that does not grow beyond [`OUTPUT`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line that holds just a tag leaves no line behind, and the end of a text stays as it is.
pub(crate) fn syntax() -> SyntaxConfig {
    let mut builder = SyntaxConfig::builder();
    builder.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    builder.build().expect("the usual delimiters")
}
