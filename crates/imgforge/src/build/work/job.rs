//! What is built for one target, and the package files that its build needs.

use std::collections::BTreeMap;

use imgforge_core::context::SuppliedFile;
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::inputs::wanted;
use imgforge_core::lock::LockView;
use imgforge_core::manifest::Base;
use imgforge_core::name::ImageName;
use imgforge_core::workspace::Image;
use imgforge_engine::{BuildRequest, Secrets};
use imgforge_packages::Scheme;

use crate::lock::Closure;
use crate::prepare::Prepared;
use crate::testing::Subject;
use crate::{Error, Session};

/// Everything about a target that its build needs.
pub(super) struct Job {
    pub(super) prepared: Prepared,
    pub(super) request: BuildRequest,
    pub(super) content_reference: String,
    pub(super) closure: Closure,
    pub(super) image: Image,
    /// Whether the target is built; otherwise it is there, and only tested.
    pub(super) is_built: bool,
    /// The subject of its tests; `None` when none are run.
    pub(super) subject: Option<Subject>,
}

impl Job {
    /// Prepares the build of a target; whether it is built, and its tests, are for the caller to say.
    pub(super) fn new(
        session: &Session,
        prepared: Prepared,
        fingerprints: &BTreeMap<ImageName, Fingerprint>,
        view: &LockView<'_>,
    ) -> Self {
        let name = &prepared.target.name;
        let image = session.workspace.images[name].clone();
        let content_reference = session.content_reference(name, prepared.target.fingerprint);
        let closure = session.closure(name, view);
        let request = BuildRequest {
            target: name.clone(),
            dockerfile: session.engine_dockerfile(&prepared, fingerprints),
            root: session.root.clone(),
            entries: prepared.build.entries.clone(),
            supplied: Vec::new(),
            args: prepared.build.args.clone(),
            labels: session.labels(&prepared),
            network: prepared.rendered.network,
            layers: session.workspace.images[name].manifest.layers,
            compression: session.workspace.manifest.compression,
            platform: prepared.target.platform.clone(),
            secrets: Secrets::default(),
            anew: false,
        };
        let asked = image.manifest.packages.first();
        let scheme = asked.map_or(closure.scheme, |request| session.scheme(&request.source.value));
        let closure = Closure { scheme, ..closure };
        Self { prepared, request, content_reference, closure, image, is_built: true, subject: None }
    }
}

/// The package files and scripts of a build, from the cache.
pub(super) async fn stage(job: &Job) -> Result<Vec<SuppliedFile>, Error> {
    if !job.prepared.installs() {
        return Ok(Vec::new());
    }
    let packages = job.prepared.build.packages.clone();
    let options = imgforge_packages::Options { keep_docs: job.image.manifest.keep_docs };
    let is_root = matches!(job.image.manifest.base.value, Base::Root(_));
    let (scheme, wanted) = (job.closure.scheme, wanted(&job.image.manifest));
    let staged = tokio::task::spawn_blocking(move || {
        let cache = imgforge_packages::Cache::user()?;
        if scheme == Scheme::Alpine {
            imgforge_packages::apk::stage_packages(&packages, &wanted, &cache)
        } else if is_root {
            imgforge_packages::stage_root(&packages, options, &cache)
        } else {
            imgforge_packages::stage_packages(&packages, options, &cache)
        }
    });
    Ok(staged.await.expect("staging does not panic")?)
}
