//! Media types: those of the image specification ("OCI Image Media Types"), and Docker's names for the same things.

pub use oci_spec::image::MediaType;
use oci_spec::image::ToDockerV2S2;

/// Docker's manifest (schema 2).
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What is asked for wherever a manifest may come, as `Accept` has it.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Returns whether a media type is this one, or what Docker calls the same.
pub fn is(found: &MediaType, wanted: &MediaType) -> bool {
    found == wanted || wanted.to_docker_v2s2().is_ok_and(|docker| docker == found.as_ref())
}

/// Returns whether registries need not have a layer of this type: one that may not be distributed (image
/// specification, "Image Layer Filesystem Changeset", section "Non-Distributable Layers").
pub fn is_elsewhere(layer: &MediaType) -> bool {
    layer.as_ref().contains(".nondistributable.") || layer.as_ref().contains(".foreign.")
}
