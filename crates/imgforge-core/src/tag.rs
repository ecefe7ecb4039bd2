//! Release tags: the texts that manifests give for them, and what they come to in a run.
//!
//! ```
//! use imgforge_core::tag::{TagTemplate, TagValues};
//!
//! let values = TagValues { version: Some("3.1+b2".into()), ..TagValues::default() };
//! let tag = TagTemplate::new("v{{ version }}").unwrap();
//! assert_eq!(tag.render(&values).unwrap().as_str(), "v3.1-b2");
//! assert!(TagTemplate::new("{{ verison }}").is_err());
//! ```

use std::collections::BTreeSet;
use std::sync::LazyLock;

use imgforge_syntax::nearest;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

use crate::name::{NameError, Tag};

/// What a tag may name.
const VALUES: &[&str] = &["date", "git.branch", "git.commit", "git.short", "version"];

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env
});

/// A release tag as a manifest has it: `latest`, or a template such as `{{ version }}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TagTemplate(String);

/// What templates are filled with. What is not known here is `None`: a template that names it cannot be rendered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagValues {
    /// `version`: what the image gives, else the workspace.
    pub version: Option<String>,
    /// `git.branch`.
    pub branch: Option<String>,
    /// `git.commit`: the whole hash; `git.short` is its first twelve digits.
    pub commit: Option<String>,
    /// `date`: `2026-11-24`.
    pub date: Option<String>,
}

/// Why a template cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// A value is not known.
    #[error("\"{{{{ {0} }}}}\" is not known here")]
    Unknown(&'static str),
    /// Nothing that could be a tag is left.
    #[error("\"{0}\" comes to nothing that can be a tag")]
    Empty(String),
}

impl TagTemplate {
    /// Checks a tag or a template of one.
    ///
    /// # Errors
    /// What is wrong with it: its syntax, a value that there is not, or characters that a tag cannot have.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if !is_template(&text) {
            return Tag::new(text).map(|tag| Self(tag.into()));
        }
        let template = ENVIRONMENT.template_from_str(&text).map_err(|error| {
            NameError(format!("this is no template: {}", error.detail().unwrap_or("wrong syntax")))
        })?;
        for name in template.undeclared_variables(true) {
            if !VALUES.contains(&name.as_str()) {
                let near = nearest(&name, VALUES.iter().copied())
                    .map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
                let known = VALUES.join(", ");
                return Err(NameError(format!("there is no value \"{name}\" for tags ({known}){near}")));
            }
        }
        Ok(Self(text))
    }

    /// The tag, if it is the same in every run.
    pub fn plain(&self) -> Option<&str> {
        (!is_template(&self.0)).then_some(&self.0)
    }

    /// The values that it names: some of `date`, `git.branch`, `git.commit`, `git.short`, `version`.
    pub fn values(&self) -> BTreeSet<&'static str> {
        if !is_template(&self.0) {
            return BTreeSet::new();
        }
        let named = match ENVIRONMENT.template_from_str(&self.0) {
            Ok(template) => template.undeclared_variables(true),
            Err(_) => return BTreeSet::new(),
        };
        VALUES.iter().copied().filter(|value| named.contains(*value)).collect()
    }

    /// The tag in a run with these values, made into one as [`sanitized`] says.
    ///
    /// # Errors
    /// A value that is not known.
    pub fn render(&self, values: &TagValues) -> Result<Tag, TagError> {
        let short = values.commit.as_ref().map(|commit| commit.chars().take(12).collect::<String>());
        for name in self.values() {
            let known = match name {
                "date" => values.date.is_some(),
                "git.branch" => values.branch.is_some(),
                "version" => values.version.is_some(),
                _ => values.commit.is_some(),
            };
            if !known {
                return Err(TagError::Unknown(name));
            }
        }
        let TagValues { version, branch, commit, date } = values;
        let git = context! { branch, commit, short };
        let filled = ENVIRONMENT.render_str(&self.0, context! { version, date, git });
        let text = filled.map_err(|_| TagError::Empty(self.0.clone()))?;
        sanitized(&text).ok_or_else(|| TagError::Empty(self.0.clone()))
    }
}

/// A text made into a tag by the grammar of the OCI distribution specification (`[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`):
/// what cannot stand in one becomes `-`, at its start it is left out, and what is longer is cut. `None` when nothing
/// is left.
pub fn sanitized(text: &str) -> Option<Tag> {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
    let text: String = text.trim().chars().map(safe).collect();
    let start = text.trim_start_matches(['.', '-']);
    Tag::new(&start[..start.len().min(128)]).ok()
}

fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|open| text.contains(open))
}

impl TryFrom<String> for TagTemplate {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<TagTemplate> for String {
    fn from(template: TagTemplate) -> Self {
        template.0
    }
}

impl std::fmt::Display for TagTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> TagValues {
        TagValues {
            version: Some("3.1".into()),
            branch: Some("feature/Über".into()),
            commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
            date: Some("2026-11-24".into()),
        }
    }

    #[test]
    fn templates_are_filled_and_made_into_tags() {
        for (text, expected) in [
            ("latest", "latest"),
            ("{{ version }}-{{ date }}", "3.1-2026-11-24"),
            ("{{ git.branch }}", "feature--ber"),
            ("g{{ git.short }}", "g0123456789ab"),
            ("{{ git.commit }}", "0123456789abcdef0123456789abcdef01234567"),
            ("{{ version | replace('.', '_') }}", "3_1"),
            ("{% if version %}-rc{% endif %}", "rc"),
        ] {
            assert_eq!(TagTemplate::new(text).unwrap().render(&values()).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        let tag = TagTemplate::new("{{ git.branch }}-{{ version }}").unwrap();
        assert_eq!(tag.values().into_iter().collect::<Vec<_>>(), ["git.branch", "version"]);
        let without = TagValues { branch: None, ..values() };
        assert_eq!(tag.render(&without), Err(TagError::Unknown("git.branch")));
        let nothing = TagTemplate::new("{{ '--' }}").unwrap();
        assert_eq!(nothing.render(&values()), Err(TagError::Empty("{{ '--' }}".into())));
    }

    #[test]
    fn wrong_templates_are_refused() {
        for (text, expected) in [
            ("{{ verison }}", "did you mean \"version\"?"),
            ("{{ git.brunch }}", "did you mean \"git.branch\"?"),
            ("{{ git }}", "there is no value \"git\""),
            ("{{ version", "no template"),
            ("a b", "a tag has at most 128"),
        ] {
            let error = TagTemplate::new(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_becomes_a_tag_or_nothing(text in "\\PC{0,200}") {
            if let Some(tag) = sanitized(&text) {
                prop_assert!(Tag::new(tag.as_str()).is_ok());
                prop_assert_eq!(sanitized(tag.as_str()), Some(tag));
            } else {
                prop_assert!(!text.contains(|c: char| c.is_ascii_alphanumeric() || c == '_'));
            }
        }
    }
}
