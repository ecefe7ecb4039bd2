//! Which engine is used: Docker where it answers, the embedded one where it does not.

use std::sync::Arc;

use camino::Utf8Path;
use imgforge_embedded::{Embedded, Settings};
use imgforge_engine::{Docker, Host};
use imgforge_state::StateDir;

use crate::{Error, Session, session};

/// The folder in which a workspace's embedded engine keeps its images.
const STORE: &str = "store";

/// The variable that says where Docker listens: who has set it means that one.
const DOCKER_HOST: &str = "DOCKER_HOST";

/// The choice of what builds and runs images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// Docker where it answers. Where it does not, and nothing says that it should (`DOCKER_HOST` or a Docker context),
    /// the embedded engine.
    #[default]
    Auto,
    /// Docker, or nothing.
    Docker,
    /// The embedded engine, also where Docker answers.
    Embedded,
}

/// The means by which a session finds its engine.
#[derive(Debug, Clone)]
pub(crate) struct Finder {
    choice: EngineChoice,
    store: StateDir,
    registries: Vec<imgforge_registry::Options>,
}

impl Finder {
    /// Connects to Docker, or opens the embedded engine.
    pub(crate) async fn find(&self) -> Result<Arc<dyn Host>, imgforge_engine::Error> {
        if self.choice == EngineChoice::Embedded {
            return Ok(Arc::new(self.embedded("")?));
        }
        match Docker::connect().await {
            Ok(docker) => Ok(Arc::new(docker)),
            Err(imgforge_engine::Error::Unreachable { endpoint, is_default: true, .. })
                if self.choice == EngineChoice::Auto && std::env::var_os(DOCKER_HOST).is_none() =>
            {
                Ok(Arc::new(self.embedded(&format!("no Docker daemon answers at {endpoint}"))?))
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn embedded(&self, why: &str) -> Result<Embedded, imgforge_engine::Error> {
        let worker = std::env::current_exe().map_err(|error| imgforge_engine::Error::Embedded {
            message: format!("this program does not find itself: {error}"),
        })?;
        Embedded::open(Settings {
            store: self.store.clone(),
            why: why.to_owned(),
            registries: self.registries.clone(),
            worker,
        })
    }
}

/// The engine for what needs no manifests: that of the workspace that `start` lies in, or Docker where there is none.
///
/// # Errors
/// [`Error::Engine`] when it cannot be reached, or its store cannot be opened; [`Error::NoWorkspace`] when the embedded
/// engine is asked for outside a workspace.
pub async fn connect(start: &Utf8Path, choice: EngineChoice) -> Result<Arc<dyn Host>, Error> {
    match session::find_root(start) {
        Ok(root) => {
            let store = session::open_state(&root)?.sub(STORE);
            Ok(Finder { choice, store, registries: Vec::new() }.find().await?)
        }
        Err(error) if choice == EngineChoice::Embedded => Err(error),
        Err(_) => Ok(Arc::new(Docker::connect().await?)),
    }
}

impl Session {
    /// Returns the means to find the engine, apart from the session so that it can be sought while files are hashed.
    pub(crate) fn finder(&self) -> Finder {
        let registries = self.registry_options(imgforge_registry::Retry::default()).into_iter().collect();
        Finder { choice: self.engine, store: self.state.sub(STORE), registries }
    }

    /// The engine that this session builds and runs with.
    ///
    /// # Errors
    /// [`Error::Engine`] when it cannot be reached, or its store cannot be opened.
    pub async fn engine(&self) -> Result<Arc<dyn Host>, Error> {
        Ok(self.finder().find().await?)
    }
}
