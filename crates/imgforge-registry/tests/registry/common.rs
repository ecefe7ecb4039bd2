//! What the tests share: a registry, clients that do not wait long, images.

use std::collections::BTreeMap;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_registry::{
    Credentials, Descriptor, Digest, Options, PushImage, PushLayer, Registry, Retry, media_type,
};
use imgforge_testkit::registry::{self as real, Setup};

/// A registry that can delete and asks for no login.
pub(crate) fn start() -> real::Registry {
    real::Registry::start(Setup { delete: true, ..Setup::default() }).unwrap()
}

pub(crate) fn options(host: &str) -> Options {
    Options { retry: quick(), ..Options::new(host, Credentials::anonymous()) }
}

/// Few and short waits.
pub(crate) fn quick() -> Retry {
    Retry {
        tries: 4,
        delay: Duration::from_millis(5),
        max_delay: Duration::from_millis(20),
        max_retry_after: Duration::from_secs(5),
        connect: Duration::from_secs(5),
        idle: Duration::from_secs(20),
    }
}

pub(crate) fn client(host: &str) -> Registry {
    Registry::new(options(host)).unwrap()
}

/// A folder for layers.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.0.path()).unwrap()
    }

    /// A layer of so many bytes, which no other layer has.
    pub(crate) fn layer(&self, size: usize) -> PushLayer {
        self.layer_of(&noise(size))
    }

    pub(crate) fn layer_of(&self, bytes: &[u8]) -> PushLayer {
        let digest = Digest::sha256(bytes);
        let file: Utf8PathBuf = self.path().join(digest.hex());
        std::fs::write(&file, bytes).unwrap();
        let descriptor = Descriptor::new(media_type::LAYER_GZIP, digest, bytes.len() as u64);
        PushLayer { descriptor, file: Some(file), mount_from: Vec::new() }
    }
}

/// Bytes that are always others.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    (0..size).map(|_| fastrand::u8(..)).collect()
}

pub(crate) fn image(layers: &[PushLayer]) -> PushImage {
    let config = format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"x\":{}}}", fastrand::u64(..));
    PushImage { config: config.into_bytes(), layers: layers.to_vec(), annotations: BTreeMap::new() }
}
