//! What a target is made of, as a sorted list of named inputs, and the one hash over it.
//!
//! | input        | name                     | value                                                    |
//! |--------------|--------------------------|----------------------------------------------------------|
//! | `format`     | `imgforge`               | [`FORMAT`]: raised when the same inputs give another image |
//! | `platform`   | `platform`               | `linux/amd64`                                            |
//! | `network`    | `network`                | `none`, `default` or `host`: what the steps reach         |
//! | `layers`     | `compression`, `number`  | `zstd`, `one`: what is not as usual; nothing otherwise    |
//! | `dockerfile` | `Dockerfile`             | BLAKE3 of its bytes, and of each instruction             |
//! | `file`       | path in the context      | BLAKE3 of the content, or what else it is; the mode sent |
//! | `folder`     | path in the context      | the mode sent                                            |
//! | `link`       | path in the context      | its target                                               |
//! | `package`    | `NAME:ARCHITECTURE`      | version and SHA-256 from the lock                        |
//! | `installer`  | `packages`, `world`      | BLAKE3 of the scripts that install packages; the names asked for, of Alpine's |
//! | `arg`        | name of a build argument | its value                                                |
//! | `label`      | key                      | its value                                                |
//! | `parent`     | image name               | the parent's fingerprint                                 |
//! | `external`   | reference as written     | its digest                                               |
//!
//! The mode that is sent is that of [`crate::modes`], as `0644`.
//!
//! Not inputs: time, host, user, umask, file times and owners, the checkout's path, comments and layout of manifests,
//! the order of nodes that have no order.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Raised whenever the same inputs would be built into something else than before.
pub const FORMAT: &str = "2";

/// A label larger than this is folded: files of one folder become one entry (the hash stays complete).
const LABEL_BUDGET: usize = 24 * 1024;

/// The first line of a label whose context entries are folded.
const FOLDED: &str = "folded";

/// BLAKE3 over an [`InputManifest`]: 256 bits, shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The content tag that names an image of this fingerprint: `f-` and the first 32 hex digits. A name
    /// only: the whole fingerprint is in a label, and compared before anything is skipped.
    pub fn content_tag(&self) -> String {
        format!("f-{}", &self.to_string()[..32])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = blake3::HexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(*blake3::Hash::from_hex(text)?.as_bytes()))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Fingerprint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Fingerprint".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
    }
}

/// What kind of thing an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// The version of what imgforge does with its inputs.
    Format,
    /// The platform that is built for.
    Platform,
    /// What the steps reach on the network.
    Network,
    /// How layers are made, where that is not the usual way.
    Layers,
    /// The Dockerfile.
    Dockerfile,
    /// A file of the context.
    File,
    /// A folder of the context.
    Folder,
    /// A symbolic link of the context.
    Link,
    /// A locked package.
    Package,
    /// The scripts that install packages.
    Installer,
    /// A build argument.
    Arg,
    /// A label set from outside the Dockerfile.
    Label,
    /// A parent in the workspace.
    Parent,
    /// An image from outside.
    External,
}

impl InputKind {
    /// The kind as it stands in records, labels and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Platform => "platform",
            Self::Network => "network",
            Self::Layers => "layers",
            Self::Dockerfile => "dockerfile",
            Self::File => "file",
            Self::Folder => "folder",
            Self::Link => "link",
            Self::Package => "package",
            Self::Installer => "installer",
            Self::Arg => "arg",
            Self::Label => "label",
            Self::Parent => "parent",
            Self::External => "external",
        }
    }

    const ALL: [Self; 14] = [
        Self::Format,
        Self::Platform,
        Self::Network,
        Self::Layers,
        Self::Dockerfile,
        Self::File,
        Self::Folder,
        Self::Link,
        Self::Package,
        Self::Installer,
        Self::Arg,
        Self::Label,
        Self::Parent,
        Self::External,
    ];

    fn from_str(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Every input of one target, by kind and name: the same input twice cannot be said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputManifest(BTreeMap<(InputKind, String), String>);

impl InputManifest {
    /// Adds an input. The last value of a kind and name counts.
    pub fn insert(&mut self, kind: InputKind, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert((kind, name.into()), value.into());
    }

    /// The Dockerfile: the hash of its bytes decides; the hashes of its instructions let a later plan say
    /// which of them is new. `instructions` are their texts in order.
    pub fn insert_dockerfile<'a>(&mut self, text: &str, instructions: impl IntoIterator<Item = &'a str>) {
        let mut value = blake3::hash(text.as_bytes()).to_hex().to_string();
        for instruction in instructions {
            value.push(' ');
            value.push_str(&instruction_hash(instruction));
        }
        self.insert(InputKind::Dockerfile, "Dockerfile", value);
    }

    /// All inputs, sorted by kind and name.
    pub fn iter(&self) -> impl Iterator<Item = (InputKind, &str, &str)> {
        self.0.iter().map(|((kind, name), value)| (*kind, name.as_str(), value.as_str()))
    }

    /// The value of one input.
    pub fn get(&self, kind: InputKind, name: &str) -> Option<&str> {
        self.0.get(&(kind, name.to_owned())).map(String::as_str)
    }

    /// BLAKE3 over the records, each field framed by its length (u64, little-endian), so that no two different
    /// manifests make the same bytes.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_derive_key("imgforge 2026 target fingerprint");
        hasher.update(&(self.0.len() as u64).to_le_bytes());
        for (kind, name, value) in self.iter() {
            for field in [kind.as_str(), name, value] {
                hasher.update(&(field.len() as u64).to_le_bytes());
                hasher.update(field.as_bytes());
            }
        }
        Fingerprint(*hasher.finalize().as_bytes())
    }

    /// The manifest as it is kept in a label of the image, one line an input, so that a later plan can name what
    /// changed. Hashes are shortened to 16 digits here: this text gives reasons, it never decides.
    pub fn to_label(&self) -> String {
        let text = encode(self.iter());
        if text.len() <= LABEL_BUDGET { text } else { format!("{FOLDED}\n{}", encode(self.folded().iter())) }
    }

    /// Reads [`to_label`](Self::to_label)'s text back; `None` when it is not of that form.
    pub fn from_label(text: &str) -> Option<RecordedInputs> {
        let (folded, text) = match text.strip_prefix(FOLDED) {
            Some(rest) => (true, rest.strip_prefix('\n')?),
            None => (false, text),
        };
        let mut inputs = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.split('\t').map(unescape);
            let (kind, name, value) = (fields.next()??, fields.next()??, fields.next()??);
            inputs.insert((InputKind::from_str(&kind)?, name), value);
        }
        (!inputs.is_empty()).then_some(RecordedInputs { folded, inputs })
    }

    /// What differs from the inputs recorded in an image, in this manifest's order.
    pub fn changes_since(&self, recorded: &RecordedInputs) -> Vec<InputChange> {
        let now = if recorded.folded { &self.folded() } else { self };
        let mut changes = Vec::new();
        for (kind, name, value) in now.iter() {
            let short = shorten(kind, value);
            let old = recorded.inputs.get(&(kind, name.to_owned()));
            if old != Some(&short) {
                changes.push(InputChange {
                    kind,
                    name: name.to_owned(),
                    old: old.cloned(),
                    new: Some(short),
                });
            }
        }
        for ((kind, name), old) in &recorded.inputs {
            if now.get(*kind, name).is_none() {
                changes.push(InputChange {
                    kind: *kind,
                    name: name.clone(),
                    old: Some(old.clone()),
                    new: None,
                });
            }
        }
        changes.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        changes
    }

    /// The same manifest with the entries of the context folded into one hash per top folder: `app/` for all
    /// that lies below `app`, `./` for what lies at the top.
    fn folded(&self) -> Self {
        let mut out = Self::default();
        let mut folders: BTreeMap<String, blake3::Hasher> = BTreeMap::new();
        for (kind, name, value) in self.iter() {
            if matches!(kind, InputKind::File | InputKind::Folder | InputKind::Link) {
                let top = name.split_once('/').map_or(".", |(top, _)| top);
                let hasher = folders.entry(format!("{top}/")).or_default();
                for field in [kind.as_str(), name, value] {
                    hasher.update(&(field.len() as u64).to_le_bytes()).update(field.as_bytes());
                }
            } else {
                out.insert(kind, name, value);
            }
        }
        for (folder, hasher) in folders {
            out.insert(InputKind::File, folder, hasher.finalize().to_hex().to_string());
        }
        out
    }
}

/// The inputs that an image was built from, as its label has them: for reasons, never for decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedInputs {
    folded: bool,
    inputs: BTreeMap<(InputKind, String), String>,
}

/// One input that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputChange {
    /// What kind of input.
    pub kind: InputKind,
    /// Its name.
    pub name: String,
    /// Its value when the image was built; `None` when it was not there.
    pub old: Option<String>,
    /// Its value now; `None` when it is gone.
    pub new: Option<String>,
}

/// The short hash under which an instruction is recorded.
pub fn instruction_hash(instruction: &str) -> String {
    blake3::hash(instruction.as_bytes()).to_hex()[..8].to_owned()
}

fn encode<'a>(inputs: impl Iterator<Item = (InputKind, &'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (kind, name, value) in inputs {
        text.push_str(kind.as_str());
        text.push('\t');
        escape(name, &mut text);
        text.push('\t');
        escape(&shorten(kind, value), &mut text);
        text.push('\n');
    }
    text
}

/// Hashes of 64 digits become 16, everything else stays.
fn shorten(kind: InputKind, value: &str) -> String {
    if matches!(kind, InputKind::Arg | InputKind::Label) {
        // May hold what should not be readable in a label of a published image: only its hash is kept.
        return blake3::hash(value.as_bytes()).to_hex()[..16].to_owned();
    }
    let is_hash = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    value.split(' ').map(|word| if is_hash(word) { &word[..16] } else { word }).collect::<Vec<_>>().join(" ")
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            c => c,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_manifest() -> impl Strategy<Value = InputManifest> {
        let kind = proptest::sample::select(&InputKind::ALL[..]);
        proptest::collection::btree_map((kind, "[a-z/\\\\\t\n é]{0,6}"), "\\PC{0,9}", 0..12)
            .prop_map(InputManifest)
    }

    proptest! {
        #[test]
        fn different_manifests_have_different_fingerprints(a in any_manifest(), b in any_manifest()) {
            prop_assert_eq!(a == b, a.fingerprint() == b.fingerprint());
        }

        #[test]
        fn any_change_of_one_input_is_seen_and_named(a in any_manifest(), kind in proptest::sample::select(&InputKind::ALL[..]), name in "[a-z]{0,3}", value in "\\PC{1,9}") {
            let mut b = a.clone();
            b.insert(kind, name.clone(), value);
            if a != b {
                prop_assert_ne!(a.fingerprint(), b.fingerprint());
                if let Some(recorded) = InputManifest::from_label(&a.to_label()) {
                    let changes = b.changes_since(&recorded);
                    prop_assert_eq!(changes.len(), 1);
                    prop_assert_eq!((changes[0].kind, &changes[0].name), (kind, &name));
                }
            }
        }

        #[test]
        fn a_label_reads_back_as_no_change(a in any_manifest()) {
            if let Some(recorded) = InputManifest::from_label(&a.to_label()) {
                prop_assert_eq!(a.changes_since(&recorded), vec![]);
            }
        }

        #[test]
        fn reading_a_label_never_panics(text in "\\PC*") {
            let _ = InputManifest::from_label(&text);
        }
    }

    #[test]
    fn fields_that_run_into_one_another_are_kept_apart() {
        let manifest = |name: &str, value: &str| {
            let mut m = InputManifest::default();
            m.insert(InputKind::Arg, name, value);
            m.fingerprint()
        };
        assert_ne!(manifest("ab", "c"), manifest("a", "bc"));
    }

    #[test]
    fn a_large_context_is_folded_by_top_folder_and_changes_are_still_named() {
        let mut before = InputManifest::default();
        for n in 0..2000_u32 {
            let folder = if n % 2 == 0 { "app" } else { "lib" };
            before.insert(
                InputKind::File,
                format!("{folder}/file{n}"),
                blake3::hash(&n.to_le_bytes()).to_hex().to_string(),
            );
        }
        let label = before.to_label();
        assert!(label.len() < LABEL_BUDGET, "{}", label.len());
        let recorded = InputManifest::from_label(&label).unwrap();
        assert_eq!(before.changes_since(&recorded), vec![]);
        let mut after = before.clone();
        after.insert(InputKind::File, "app/file4", "changed");
        let changes = after.changes_since(&recorded);
        assert_eq!(changes.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["app/"]);
    }

    #[test]
    fn values_of_arguments_are_not_readable_in_a_label() {
        let mut manifest = InputManifest::default();
        manifest.insert(InputKind::Arg, "TOKEN", "hunter2");
        assert!(!manifest.to_label().contains("hunter2"));
    }
}
