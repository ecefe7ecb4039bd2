//! The colours of the words, in one place, so that turning them off is one decision.

use anstyle::{AnsiColor, Style};

/// The styles of a stream; all empty when it gets no colours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Palette {
    /// What went well.
    pub(crate) good: Style,
    /// What is being done.
    pub(crate) work: Style,
    /// What failed.
    pub(crate) bad: Style,
    /// What people should know.
    pub(crate) warn: Style,
    /// What is as it was, or matters less.
    pub(crate) dim: Style,
}

impl Palette {
    /// The styles for a stream with or without colours.
    pub(crate) fn new(color: bool) -> Self {
        if !color {
            let plain = Style::new();
            return Self { good: plain, work: plain, bad: plain, warn: plain, dim: plain };
        }
        Self {
            good: AnsiColor::Green.on_default().bold(),
            work: AnsiColor::Cyan.on_default().bold(),
            bad: AnsiColor::Red.on_default().bold(),
            warn: AnsiColor::Yellow.on_default().bold(),
            dim: Style::new().dimmed(),
        }
    }
}

/// A right-aligned word of nine columns, and the space after it: `    Built `.
pub(crate) fn word(style: Style, word: &str) -> String {
    format!("{style}{word:>9}{style:#} ")
}
