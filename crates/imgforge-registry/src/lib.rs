//! The OCI distribution side: existence, push, download, tags, credentials.
//!
//! ```text
//! "HOST/REPO:TAG@DIGEST"  -> Reference        what people write
//! Reference               -> Manifest         Registry::manifest: the bytes as they came, digest verified
//! PushImage               -> Pushed           Registry::push_image: blobs in parallel, then the manifest by digest
//! digest                  -> Manifest         Registry::verify: all of it is there
//! Manifest                -> a tag            Registry::put_manifest: written and read back
//! a folder                -> Manifest         Layout: the same content as files
//! ```
//!
//! It is apart from the engines since a registry is asked also where no engine is. Rules come from the OCI Distribution
//! and Image Specifications, whose sections are named where they are kept; tokens are those of Distribution's "Token
//! Authentication Specification".

mod auth;
mod challenge;
mod credentials;
mod download;
mod error;
mod http;
mod insecure;
mod layout;
mod manifests;
mod progress;
mod push;
mod registry;
mod tags;
mod upload;

pub use credentials::Credentials;
pub use error::{Error, Kind};
pub use layout::Layout;
pub use progress::{Moved, ProgressSink};
pub use push::{PushArtifact, PushImage, PushLayer, Pushed};
pub use registry::{Options, Registry};

/// What came of one try.
type Failure = imgforge_http::Failure<Error>;
pub use imgforge_http::{Retry, Traffic};
