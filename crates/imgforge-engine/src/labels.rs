//! What an image says about itself, so that it alone answers whether a target is fresh.
//!
//! | label                  | value                                                                       |
//! |------------------------|-----------------------------------------------------------------------------|
//! | `imgforge.workspace`   | name of the workspace; what the inventory asks for                          |
//! | `imgforge.image`       | name of the image in the workspace                                          |
//! | `imgforge.fingerprint` | the whole fingerprint, 64 hex digits                                        |
//! | `imgforge.inputs`      | the input manifest in short (`InputManifest::to_label`): gives reasons only |
//! | `imgforge.parents`     | JSON: `{"NAME": {"fingerprint": HEX, "id": ID}}`                            |
//! | `imgforge.content-tag` | the content tag: `f-` and 32 hex digits                                     |
//!
//! Labels are inherited: an image made by hand from one of ours carries ours. So they are believed only together with
//! the content tag among the image's names, which is given last, when the image has been checked.

use std::collections::{BTreeSet, HashMap};

use imgforge_core::fingerprint::{Fingerprint, InputManifest};
use imgforge_core::name::ImageName;
use imgforge_core::plan::Held;
use imgforge_oci::Digest;
use imgforge_oci::reference::Parts;

/// The name of the workspace.
pub const WORKSPACE: &str = "imgforge.workspace";
/// The name of the image in the workspace.
pub const IMAGE: &str = "imgforge.image";
/// The whole fingerprint.
pub const FINGERPRINT: &str = "imgforge.fingerprint";
/// The inputs in short.
pub const INPUTS: &str = "imgforge.inputs";
/// The parents it was built from.
pub const PARENTS: &str = "imgforge.parents";
/// The content tag.
pub const CONTENT_TAG: &str = "imgforge.content-tag";
/// On a container that is only there to read a file from an image.
pub const READER: &str = "imgforge.reader";

/// On a container that a test was run in: the run that it belongs to.
pub const TEST_RUN: &str = "imgforge.test-run";

/// Reads an image's labels; `None` when they are not ours or cannot be understood.
#[expect(clippy::implicit_hasher, reason = "that of the engine's answers")]
pub fn read(
    id: Digest,
    created: i64,
    references: BTreeSet<String>,
    labels: &HashMap<String, String>,
) -> Option<(ImageName, Held)> {
    let name = ImageName::new(labels.get(IMAGE)?.as_str()).ok()?;
    let fingerprint: Fingerprint = labels.get(FINGERPRINT)?.parse().ok()?;
    let inputs = labels.get(INPUTS).and_then(|text| InputManifest::from_label(text));
    let tag = fingerprint.content_tag();
    let complete = references.iter().any(|reference| is_content_reference(reference, &name, &tag));
    Some((name, Held { id, fingerprint, inputs, references, created, complete, distrusted: false }))
}

/// Returns whether `reference` is `NAME:TAG`, in whatever registry.
fn is_content_reference(reference: &str, name: &ImageName, tag: &str) -> bool {
    let parts = Parts::of(reference);
    let Some(registry) = parts.name.strip_suffix(name.as_str()) else { return false };
    parts.tag == Some(tag) && (registry.is_empty() || registry.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(fingerprint: &str) -> HashMap<String, String> {
        HashMap::from([(IMAGE.into(), "team/app".into()), (FINGERPRINT.into(), fingerprint.into())])
    }

    fn complete(references: &[&str]) -> bool {
        let references = references.iter().map(|r| (*r).to_owned()).collect();
        read(Digest::sha256(b"1"), 0, references, &labels(&"ab".repeat(32))).unwrap().1.complete
    }

    #[test]
    fn an_image_is_complete_only_under_its_own_content_tag() {
        let tag = format!("f-{}", "ab".repeat(16));
        assert!(complete(&[&format!("team/app:{tag}")]));
        assert!(complete(&["x:latest", &format!("registry.example.com:5000/acme/team/app:{tag}")]));
        assert!(!complete(&[]));
        assert!(!complete(&["team/app:latest"]));
        assert!(!complete(&[&format!("other-team/app:{tag}")]));
        assert!(!complete(&["team/app:f-00000000000000000000000000000000"]));
    }

    #[test]
    fn labels_that_cannot_be_understood_are_not_ours() {
        for bad in ["", "ab", "zz"] {
            assert!(read(Digest::sha256(b"1"), 0, BTreeSet::new(), &labels(bad)).is_none(), "{bad}");
        }
    }
}
