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

/// What is remembered: one file of lines `passed KEY` and `failed KEY`, of which the last of a key is true. Each result
/// is one line at the end, written at once, so that a run that is killed, or another one at the same time, loses
/// nothing; a line that is not whole is no key of anything. Deleting the file costs time, nothing else.
pub(crate) struct TestRecord {
    file: Utf8PathBuf,
    passed: Mutex<HashMap<[u8; 32], bool>>,
}

impl TestRecord {
    /// Reads what earlier runs in this workspace have found.
    pub(crate) fn load(root: &Utf8Path) -> Self {
        let file = root.join(".imgforge/cache/tests/results");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let passed: HashMap<[u8; 32], bool> = text.lines().filter_map(read).collect();
        if text.lines().count() > MANY {
            let lines: String = passed.iter().map(|(key, passed)| line(key, *passed)).collect();
            // What cannot be written is found out again.
            let _ = cache_file::replace(&file, lines.as_bytes());
        }
        Self { file, passed: Mutex::new(passed) }
    }

    /// Whether exactly these tests have passed for an image of this fingerprint.
    pub(crate) fn passed(&self, fingerprint: Fingerprint, tests: TestsHash) -> bool {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.get(&key(fingerprint, tests)).copied().unwrap_or(false)
    }

    /// Remembers what came of them.
    pub(crate) fn set(&self, fingerprint: Fingerprint, tests: TestsHash, passed: bool) {
        let key = key(fingerprint, tests);
        let mut known = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(key, passed) == Some(passed) {
            return;
        }
        // What cannot be written is found out again.
        let _ = self.file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.file)?;
            file.write_all(line(&key, passed).as_bytes())
        });
    }
}

fn key(fingerprint: Fingerprint, tests: TestsHash) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("imgforge 2026 tests passed");
    *hasher.update(fingerprint.to_string().as_bytes()).update(tests.as_bytes()).finalize().as_bytes()
}

fn line(key: &[u8; 32], passed: bool) -> String {
    let word = if passed { "passed" } else { "failed" };
    format!("{word} {}\n", blake3::Hash::from_bytes(*key).to_hex())
}

fn read(line: &str) -> Option<([u8; 32], bool)> {
    let (word, key) = line.split_once(' ')?;
    let key = *blake3::Hash::from_hex(key).ok()?.as_bytes();
    match word {
        "passed" => Some((key, true)),
        "failed" => Some((key, false)),
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
        record.set(fingerprint(), tests, true);
        assert!(record.passed(fingerprint(), tests) && !record.passed(fingerprint(), others));
        let again = TestRecord::load(root);
        assert!(again.passed(fingerprint(), tests) && !again.passed(fingerprint(), others));
        again.set(fingerprint(), tests, false);
        assert!(!TestRecord::load(root).passed(fingerprint(), tests));
    }

    #[test]
    fn a_line_that_is_not_whole_is_no_result() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let tests = TestsHash::of(&[], None, None);
        let whole = line(&key(fingerprint(), tests), true);
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
