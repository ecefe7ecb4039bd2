//! The vocabulary of the OCI specifications, once for all rooms: what a digest is, how an image is named, what
//! manifests, indexes and configurations say.
//!
//! ```text
//! "HOST/REPO:TAG@DIGEST"  -> Reference                 what people write
//! bytes                   -> Digest                    what content is called
//! Digest, size, type      -> Descriptor                how documents name content
//! Descriptors             -> ImageManifest, Index      documents
//! a document              -> Manifest                  with the bytes that its digest is over
//! bytes                   -> ImageConfig               what an image says of its containers
//! ```
//!
//! Nothing here reads a file or asks anybody. Rules come from the OCI Image and Distribution Specifications, and from
//! the grammar of Distribution's references; sections are named where they are kept.
//!
//! [`MediaType`] is that of the crate `oci-spec`, which also reads what is written here in a test. Its other types
//! are not stood on, since they lose what imgforge has to keep: its maps have no order, so that one document would
//! have other bytes each time; members that it does not know are dropped, as are Docker's (`Healthcheck`, `OnBuild`,
//! `Shell`); it writes `os_version` for `os.version`; its references know no IPv6 address.

pub mod annotation;
mod config;
mod descriptor;
mod digest;
pub mod layout;
mod manifest;
pub mod media_type;
mod platform;
pub mod reference;
#[cfg(test)]
mod tests;

pub use self::config::{Empty, Healthcheck, History, ImageConfig, RootFs, Settings, chain_id, diff_ids};
pub use self::descriptor::Descriptor;
pub use self::digest::{Digest, DigestError, Hasher};
pub use self::manifest::{Document, ImageManifest, Index, Manifest};
pub use self::media_type::MediaType;
pub use self::platform::{Platform, PlatformError};
pub use self::reference::{Reference, ReferenceError, Tag, TagOrDigest};
