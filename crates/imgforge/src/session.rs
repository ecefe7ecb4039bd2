//! An opened workspace: manifests read, names resolved, the graph made.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::graph::ImageGraph;
use imgforge_core::name::ImageName;
use imgforge_core::select;
use imgforge_core::workspace::{self, Workspace};
use imgforge_packages::Network;
use imgforge_state::{FOLDER, StateDir};
use imgforge_syntax::nearest;
use imgforge_worktree::{WorkTree, manifests};
use tokio::runtime::Runtime;

use crate::Error;
use crate::build::runtime;
use crate::engines::EngineChoice;
use crate::git::Git;
use crate::tags::Outside;

/// The options with which a workspace is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Use (and keep) what `.imgforge/cache` remembers of unchanged files. It changes how fast, never what.
    pub cache: bool,
    /// The engine that builds and runs images.
    pub engine: EngineChoice,
    /// Whether the folder has nothing but what git has checked out, without a `.git` beside it.
    pub checkout: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { cache: true, engine: EngineChoice::default(), checkout: false }
    }
}

/// An opened workspace.
pub struct Session {
    pub(crate) root: Utf8PathBuf,
    pub(crate) state: StateDir,
    pub(crate) source: WorkTree,
    pub(crate) workspace: Workspace,
    pub(crate) graph: ImageGraph,
    pub(crate) outside: Outside,
    pub(crate) engine: EngineChoice,
    runtime: OnceLock<Runtime>,
}

impl Session {
    /// Opens the workspace that `start` lies in: the nearest folder upwards that has an `imgforge.kdl`.
    ///
    /// # Errors
    /// [`Error::NoWorkspace`]; [`Error::ForeignWorkspace`]; [`Error::State`] when there is something in `.imgforge`
    /// that imgforge has not made; [`Error::Problems`] with all problems of all manifests.
    pub fn open(start: &Utf8Path, options: &OpenOptions) -> Result<Self, Error> {
        let root = find_root(start)?;
        let state = open_state(&root)?;
        let source = match (options.checkout, options.cache) {
            (true, _) => WorkTree::checkout(&root),
            (false, true) => WorkTree::cached(&root, &state),
            (false, false) => WorkTree::uncached(&root),
        };
        let cache = options.cache.then(|| manifests::remembered(&state));
        let (workspace, is_tracked) = rayon::join(
            || workspace::load(&source, cache.as_ref()),
            // git is asked meanwhile, of a folder that is there.
            || state.path().exists() && Git::of(&root).tracks(FOLDER.into()) == Some(true),
        );
        if is_tracked {
            return Err(Error::TrackedState { path: state.path().to_owned() });
        }
        let workspace = workspace?;
        if let Some(cache) = cache {
            manifests::remember(&cache, workspace.images.len(), &state);
        }
        let graph = ImageGraph::new(&workspace)?;
        Ok(Self {
            root,
            state,
            source,
            workspace,
            graph,
            outside: Outside::default(),
            engine: options.engine,
            runtime: OnceLock::new(),
        })
    }

    /// The folder of `imgforge.kdl`.
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// The images and what the workspace says for all of them.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Which image stands on which.
    pub fn graph(&self) -> &ImageGraph {
        &self.graph
    }

    /// The images that `selectors` mean, less those that `exclude` means; all images when there is no selector.
    ///
    /// # Errors
    /// [`Error::Select`] when a selector names nothing.
    pub fn select(&self, selectors: &[String], exclude: &[String]) -> Result<BTreeSet<ImageName>, Error> {
        Ok(select::select(&self.workspace, &self.graph, selectors, exclude)?)
    }
}

impl Session {
    /// Returns the threads that engines and servers are talked to from: the same for all that this session does, and
    /// made when they are first needed.
    ///
    /// # Errors
    /// [`Error::Io`] when the system gives none.
    pub fn runtime(&self) -> Result<&Runtime, Error> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let runtime = runtime()?;
        Ok(self.runtime.get_or_init(|| runtime))
    }

    /// Returns the way to repositories of packages.
    pub(crate) fn network(&self) -> Result<Network, Error> {
        Ok(Network::new(self.runtime()?.handle())?)
    }

    /// Returns a warning where nothing can be sealed: what is built and tested then is so again in each run, without
    /// a word.
    pub(crate) fn key_warning(&self) -> Option<String> {
        let error = self.state.key().ready().err()?;
        Some(format!("{error}; until then no run remembers what an earlier one has built and tested"))
    }

    /// The image called `name`.
    ///
    /// # Errors
    /// [`Error::Select`] with the nearest name.
    pub fn image(&self, name: &str) -> Result<ImageName, Error> {
        if let Some(image) = self.workspace.images.keys().find(|image| image.as_str() == name) {
            return Ok(image.clone());
        }
        Err(Error::NoImage { name: name.to_owned(), near: self.near(name) })
    }

    fn near(&self, name: &str) -> Option<String> {
        nearest(name, self.workspace.images.keys().map(ImageName::as_str)).map(str::to_owned)
    }
}

/// The folder of the workspace's own state, in which there is nothing that leads elsewhere.
pub(crate) fn open_state(root: &Utf8Path) -> Result<StateDir, Error> {
    let state = StateDir::of_workspace(root)?;
    let strange = state.strange()?;
    if strange.is_empty() { Ok(state) } else { Err(Error::State(strange)) }
}

pub(crate) fn find_root(start: &Utf8Path) -> Result<Utf8PathBuf, Error> {
    let absolute =
        start.canonicalize_utf8().map_err(|error| Error::NoFolder { start: start.to_owned(), error })?;
    let found = absolute.ancestors().find(|folder| folder.join("imgforge.kdl").is_file());
    found.map(Utf8Path::to_owned).ok_or(Error::NoWorkspace { start: absolute.clone() })
}
