//! Names and texts of OCI image layouts (image specification, "OCI Image Layout Specification").

/// The file that makes a folder a layout.
pub const MARKER: &str = "oci-layout";
/// What is in it.
pub const MARKER_TEXT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";
/// The file that lists the images.
pub const INDEX: &str = "index.json";
/// The folder of blobs whose digests are SHA-256: each file has the name of its digits.
pub const BLOBS: &str = "blobs/sha256";
