//! Which images' tests have passed, so that they are not run again: by the image's fingerprint and by what its tests ask.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::cache_file;
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::testing::TestsHash;

/// More lines than this are written anew, without those that later ones have replaced.
const MANY: usize = 20_000;

/// What is remembered: one file of lines `passed KEY` and `failed KEY CAUSES`, of which the last of a key is true. Causes
/// are what had changed when the tests failed, so that a later run can name it too. Each result is one line at the end, written at once, so that a run that is killed, or another one at the same time, loses
/// nothing; a line that is not whole is no key of anything. Deleting the file costs time, nothing else.
pub(crate) struct TestRecord {
    file: Utf8PathBuf,
    known: Mutex<HashMap<[u8; 32], Known>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Passed,
    Failed { causes: Vec<String> },
}

impl TestRecord {
    /// Reads what earlier runs in this workspace have found.
    pub(crate) fn load(root: &Utf8Path) -> Self {
        let file = root.join(".imgforge/cache/tests/results");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let known: HashMap<[u8; 32], Known> = text.lines().filter_map(read).collect();
        if text.lines().count() > MANY {
            let lines: String = known.iter().map(|(key, known)| line(key, known)).collect();
            // What cannot be written is found out again.
            let _ = cache_file::replace(&file, lines.as_bytes());
        }
        Self { file, known: Mutex::new(known) }
    }

    /// Whether exactly these tests have passed for an image of this fingerprint.
    pub(crate) fn passed(&self, fingerprint: Fingerprint, tests: TestsHash) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&key(fingerprint, tests)) == Some(&Known::Passed)
    }

    /// What had changed when they failed the last time; nothing when they have not, or nothing had.
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
        let text = line(&key, &new);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&key) == Some(&new) {
            return;
        }
        known.insert(key, new);
        // What cannot be written is found out again.
        let _ = self.file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.file)?;
            file.write_all(text.as_bytes())
        });
    }
}

fn key(fingerprint: Fingerprint, tests: TestsHash) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("imgforge 2026 tests passed");
    *hasher.update(fingerprint.to_string().as_bytes()).update(tests.as_bytes()).finalize().as_bytes()
}

fn line(key: &[u8; 32], known: &Known) -> String {
    let key = blake3::Hash::from_bytes(*key).to_hex();
    match known {
        Known::Passed => format!("passed {key}\n"),
        Known::Failed { causes } => {
            let causes = serde_json::to_string(causes).expect("texts have a form");
            format!("failed {key} {causes}\n")
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
    use imgforge_core::fingerprint::InputManifest;

    use super::*;

    fn fingerprint() -> Fingerprint {
        InputManifest::default().fingerprint()
    }

    #[test]
    fn only_the_same_tests_of_the_same_image_have_passed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let tests = TestsHash::of(&[], None, None);
        let others = TestsHash::of(&[], Some(1), None);
        let record = TestRecord::load(root);
        assert!(!record.passed(fingerprint(), tests));
        record.set_passed(fingerprint(), tests);
        assert!(record.passed(fingerprint(), tests) && !record.passed(fingerprint(), others));
        let again = TestRecord::load(root);
        assert!(again.passed(fingerprint(), tests) && !again.passed(fingerprint(), others));
        again.set_failed(fingerprint(), tests, vec!["web: a\nb changed".into()]);
        let last = TestRecord::load(root);
        assert!(!last.passed(fingerprint(), tests));
        assert_eq!(last.causes(fingerprint(), tests), ["web: a\nb changed"]);
    }

    #[test]
    fn a_line_that_is_not_whole_is_no_result() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let tests = TestsHash::of(&[], None, None);
        let whole = line(&key(fingerprint(), tests), &Known::Passed);
        let folder = root.join(".imgforge/cache/tests");
        fs::create_dir_all(&folder).unwrap();
        for cut in 0..whole.len() - 1 {
            fs::write(folder.join("results"), &whole[..cut]).unwrap();
            assert!(!TestRecord::load(root).passed(fingerprint(), tests), "{cut}");
        }
        fs::write(folder.join("results"), &whole[..whole.len() - 1]).unwrap();
        assert!(TestRecord::load(root).passed(fingerprint(), tests));
    }
}
