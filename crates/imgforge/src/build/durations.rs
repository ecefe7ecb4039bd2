//! How long each image took the last time, for the order of the next run. Only ever a matter of order.

use std::collections::BTreeMap;
use std::time::Duration;

use imgforge_core::name::ImageName;
use imgforge_state::StateDir;

/// The time that an image which was never built here is taken to need.
const UNKNOWN: Duration = Duration::from_secs(5);

/// The file.
const FILE: &str = "cache/durations.json";

pub(crate) struct Durations {
    state: StateDir,
    known: BTreeMap<String, u64>,
}

impl Durations {
    pub(crate) fn load(state: &StateDir) -> Self {
        let known = state.read(FILE).ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { state: state.clone(), known: known.unwrap_or_default() }
    }

    pub(crate) fn of(&self, name: &ImageName) -> Duration {
        self.known.get(name.as_str()).map_or(UNKNOWN, |millis| Duration::from_millis(*millis))
    }

    pub(crate) fn insert(&mut self, name: &ImageName, took: Duration) {
        self.known.insert(name.to_string(), u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }

    pub(crate) fn save(&self) {
        // What cannot be written makes the next order worse, nothing else.
        if let Ok(bytes) = serde_json::to_vec(&self.known) {
            let _ = self.state.replace(FILE, &bytes);
        }
    }
}
