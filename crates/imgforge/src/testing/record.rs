//! Which images' tests have passed, so that they are not run again: by the image's fingerprint and by what its tests
//! ask.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::testing::TestsHash;
use imgforge_state::StateDir;

/// The file.
const FILE: &str = "cache/tests/results";

/// More lines than this are written anew, without those that later ones have replaced.
const MANY: usize = 20_000;

/// The remembered results of tests: one file of lines `SEAL passed KEY` and `SEAL failed KEY CAUSES`, of which the
/// last of a key is true. Causes are what had changed when the tests failed, so that a later run can name it too.
/// Each result is one line at the end, written at once and behind an end of line of its own, so that a run that is
/// killed, or another one at the same time, takes no other result with it. A line that is not whole, or that this
/// user has not sealed, is no result. Deleting the file costs time, nothing else.
pub(crate) struct TestRecord {
    state: StateDir,
    known: Mutex<HashMap<[u8; 32], Known>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Passed,
    Failed { causes: Vec<String> },
}

impl TestRecord {
    /// Reads what earlier runs in this workspace have found.
    pub(crate) fn load(state: &StateDir) -> Self {
        let lines = state.sealed_lines(FILE).unwrap_or_default();
        let known: HashMap<[u8; 32], Known> = lines.iter().filter_map(|line| read(line)).collect();
        if lines.len() > MANY {
            let lines: Vec<String> = known.iter().map(|(key, known)| line(key, known)).collect();
            // What cannot be written is found out again.
            let _ = state.replace_sealed_lines(FILE, lines.iter().map(String::as_str));
        }
        Self { state: state.clone(), known: Mutex::new(known) }
    }

    /// Returns whether exactly these tests have passed for an image of this fingerprint.
    pub(crate) fn passed(&self, fingerprint: Fingerprint, tests: TestsHash) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&key(fingerprint, tests)) == Some(&Known::Passed)
    }

    /// Returns what had changed when they failed the last time; nothing when they have not, or nothing had.
    pub(crate) fn causes(&self, fingerprint: Fingerprint, tests: TestsHash) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&key(fingerprint, tests)) {
            Some(Known::Failed { causes }) => causes.clone(),
            Some(Known::Passed) | None => Vec::new(),
        }
    }

    /// Remembers that they have passed.
    pub(crate) fn set_passed(&self, fingerprint: Fingerprint, tests: TestsHash) {
        self.set(key(fingerprint, tests), Known::Passed);
    }

    /// Remembers that they have failed, after these changes.
    pub(crate) fn set_failed(&self, fingerprint: Fingerprint, tests: TestsHash, causes: Vec<String>) {
        self.set(key(fingerprint, tests), Known::Failed { causes });
    }

    fn set(&self, key: [u8; 32], new: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&key) == Some(&new) {
            return;
        }
        // What cannot be written is found out again.
        let _ = self.state.append_sealed(FILE, &line(&key, &new));
        known.insert(key, new);
    }
}

fn key(fingerprint: Fingerprint, tests: TestsHash) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("imgforge 2026 tests passed");
    *hasher.update(fingerprint.to_string().as_bytes()).update(tests.as_bytes()).finalize().as_bytes()
}

fn line(key: &[u8; 32], known: &Known) -> String {
    let key = blake3::Hash::from_bytes(*key).to_hex();
    match known {
        Known::Passed => format!("passed {key}"),
        Known::Failed { causes } => {
            let causes = serde_json::to_string(causes).expect("texts have a form");
            format!("failed {key} {causes}")
        }
    }
}

fn read(line: &str) -> Option<([u8; 32], Known)> {
    let (word, rest) = line.split_once(' ')?;
    let (key, causes) = rest.split_once(' ').unwrap_or((rest, ""));
    let key = *blake3::Hash::from_hex(key).ok()?.as_bytes();
    match word {
        "passed" => Some((key, Known::Passed)),
        "failed" => Some((key, Known::Failed { causes: serde_json::from_str(causes).unwrap_or_default() })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;
    use imgforge_core::fingerprint::InputManifest;
    use imgforge_state::Key;

    use super::*;

    fn fingerprint() -> Fingerprint {
        InputManifest::default().fingerprint()
    }

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Utf8Path::from_path(dir.path()).unwrap()).with_key(Key::of(&[7; 32]));
        (dir, state)
    }

    #[test]
    fn only_the_same_tests_of_the_same_image_have_passed() {
        let (_guard, state) = state();
        let tests = TestsHash::of(&[], None, None);
        let others = TestsHash::of(&[], Some(1), None);
        let record = TestRecord::load(&state);
        assert!(!record.passed(fingerprint(), tests));
        record.set_passed(fingerprint(), tests);
        assert!(record.passed(fingerprint(), tests) && !record.passed(fingerprint(), others));
        let again = TestRecord::load(&state);
        assert!(again.passed(fingerprint(), tests) && !again.passed(fingerprint(), others));
        again.set_failed(fingerprint(), tests, vec!["web: a\nb changed".into()]);
        let last = TestRecord::load(&state);
        assert!(!last.passed(fingerprint(), tests));
        assert_eq!(last.causes(fingerprint(), tests), ["web: a\nb changed"]);
    }

    #[test]
    fn a_line_that_is_not_whole_or_not_sealed_by_this_user_is_no_result() {
        let (_guard, state) = state();
        let tests = TestsHash::of(&[], None, None);
        let key = key(fingerprint(), tests);
        let written = |state: &StateDir| {
            state.replace_sealed_lines(FILE, [line(&key, &Known::Passed).as_str()]).unwrap();
            String::from_utf8(state.read(FILE).unwrap().unwrap()).unwrap()
        };
        let whole = written(&state);
        let passes = |text: &str| {
            state.replace(FILE, text.as_bytes()).unwrap();
            TestRecord::load(&state).passed(fingerprint(), tests)
        };
        for cut in 0..whole.len() - 1 {
            assert!(!passes(&whole[..cut]), "{cut}");
        }
        assert!(passes(&whole[..whole.len() - 1]));
        let others = written(&state.clone().with_key(Key::of(&[8; 32])));
        assert!(!passes(&others) && !passes(&format!("passed {}\n", blake3::Hash::from_bytes(key))));
        assert!(passes(&format!("{whole}{others}")), "what is planted hides nothing");
    }

    #[test]
    fn a_result_is_whole_behind_one_that_a_killed_run_has_begun() {
        let (_guard, state) = state();
        let tests = TestsHash::of(&[], None, None);
        let others = TestsHash::of(&[], Some(1), None);
        TestRecord::load(&state).set_passed(fingerprint(), others);
        let whole = state.read(FILE).unwrap().unwrap();
        for cut in 0..whole.len() {
            state.replace(FILE, &whole[..cut]).unwrap();
            TestRecord::load(&state).set_passed(fingerprint(), tests);
            assert!(TestRecord::load(&state).passed(fingerprint(), tests), "{cut}");
        }
    }
}
