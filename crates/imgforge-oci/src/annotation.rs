//! Keys of annotations (image specification, "Pre-Defined Annotation Keys").

/// What names an image in the index of a layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The name of a file, for those who look at an artifact.
pub const TITLE: &str = "org.opencontainers.image.title";
/// The reference of the image that an image stands on.
pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// The digest of that image's manifest.
pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
/// The whole reference of an image in the index of a layout, where `docker buildx build --output type=oci` and
/// `ctr images export` say it.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
