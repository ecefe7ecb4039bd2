//! The key of this machine's user, with which imgforge seals what it will believe later: that tests have passed, what a
//! step has given, which image a name leads to.
//!
//! It lies outside every workspace, so that whoever plants records in a repository or in a shared cache cannot seal
//! them. It is made when the first record is sealed; nothing is made to check one.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::OFlags;

use super::{StateDir, StateError};

/// The variable that holds a key: for machines that share records.
pub const KEY_VARIABLE: &str = "IMGFORGE_KEY";

/// A shorter text in [`KEY_VARIABLE`] could be guessed.
const SHORTEST: usize = 32;

/// The file in the user's state folder.
const FILE: &str = "key";

/// How many files for a key this process has made: threads have a name each.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Nothing says where it lies.
    #[error("no folder for this user's key is known: set HOME, XDG_STATE_HOME or {KEY_VARIABLE}")]
    NoPlace,
    /// The variable is too short.
    #[error(
        "{KEY_VARIABLE} has fewer than {SHORTEST} characters, which could be guessed: `openssl rand -hex 32` makes a key"
    )]
    Short,
    /// The file is not as it was made.
    #[error("{path} is no key; remove it, and what was built before it is built again")]
    Broken {
        /// The file.
        path: Utf8PathBuf,
    },
    /// Others may read the file, and so may have it.
    #[error("{path} can be read by other users; remove it, and what was built before it is built again")]
    Open {
        /// The file.
        path: Utf8PathBuf,
    },
    /// The file cannot be read or made.
    #[error(
        "this user's key: {0}; set XDG_STATE_HOME to a folder that can be written to, or {KEY_VARIABLE} to a key"
    )]
    State(#[from] StateError),
}

/// A key; it is looked for when it is first needed.
#[derive(Debug, Clone)]
pub struct Key {
    place: Place,
    known: Arc<OnceLock<Secret>>,
}

#[derive(Debug, Clone)]
enum Place {
    Nowhere,
    Short,
    Folder(Utf8PathBuf),
    Known,
}

/// Not shown.
struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Key {
    /// That of [`KEY_VARIABLE`], else the file `$XDG_STATE_HOME/imgforge/key`, else `~/.local/state/imgforge/key`.
    pub fn user() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(text) = set(KEY_VARIABLE) {
            return if text.len() < SHORTEST { Self::at(Place::Short) } else { Self::of(text.as_bytes()) };
        }
        // The XDG base directory specification: a relative path is to be ignored.
        let state = set("XDG_STATE_HOME").filter(|path| path.starts_with('/')).map(Utf8PathBuf::from);
        let state = state.or_else(|| set("HOME").map(|home| Utf8Path::new(&home).join(".local/state")));
        Self::at(state.map_or(Place::Nowhere, |state| Place::Folder(state.join("imgforge"))))
    }

    /// One that is made of a text which nobody else knows.
    pub fn of(text: &[u8]) -> Self {
        let key = Self::at(Place::Known);
        let _ = key.known.set(Secret(blake3::derive_key("imgforge 2026 key of a variable", text)));
        key
    }

    fn at(place: Place) -> Self {
        Self { place, known: Arc::default() }
    }

    /// Makes sure that there is a key. Without one nothing can be sealed, and nothing that was counts.
    ///
    /// # Errors
    /// [`KeyError`] when there is no key, and none can be made.
    pub fn ready(&self) -> Result<(), KeyError> {
        self.needed().map(drop)
    }

    /// The seal of a record: `parts` say all of it, and `purpose` what it is believed for.
    ///
    /// # Errors
    /// As of [`ready`](Self::ready).
    pub fn seal(&self, purpose: &str, parts: &[&[u8]]) -> Result<blake3::Hash, KeyError> {
        Ok(hash(self.needed()?, purpose, parts))
    }

    /// Whether this user has sealed exactly this record.
    pub fn has_sealed(&self, purpose: &str, parts: &[&[u8]], seal: blake3::Hash) -> bool {
        // Without a key there is nothing that was sealed with it. Hashes are compared in constant time.
        self.found().ok().flatten().is_some_and(|key| hash(key, purpose, parts) == seal)
    }

    fn needed(&self) -> Result<&Secret, KeyError> {
        match self.found()? {
            Some(key) => Ok(key),
            None => self.made(),
        }
    }

    fn found(&self) -> Result<Option<&Secret>, KeyError> {
        if let Some(known) = self.known.get() {
            return Ok(Some(known));
        }
        match &self.place {
            Place::Nowhere => Err(KeyError::NoPlace),
            Place::Short => Err(KeyError::Short),
            Place::Known => Ok(None),
            Place::Folder(folder) => Ok(read(&dir(folder))?.map(|secret| self.known.get_or_init(|| secret))),
        }
    }

    fn made(&self) -> Result<&Secret, KeyError> {
        let Place::Folder(folder) = &self.place else { return Err(KeyError::NoPlace) };
        let dir = dir(folder);
        let io = |error| StateError::Io { path: folder.join(FILE), error };
        // As the XDG base directory specification asks for the folders above it.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        let mut bytes = [0; 32];
        File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).map_err(io)?;
        let new = format!("{FILE}.{}.{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        dir.replace(&new, blake3::Hash::from_bytes(bytes).to_hex().as_bytes())?;
        // A key that a power cut has emptied would be refused until somebody removes it.
        File::open(folder.join(&new)).and_then(|file| file.sync_all()).map_err(io)?;
        // The first of several processes wins, and the others read its key.
        let linked = std::fs::hard_link(folder.join(&new), folder.join(FILE));
        dir.remove(&new)?;
        match (read(&dir)?, linked) {
            (Some(secret), _) => Ok(self.known.get_or_init(|| secret)),
            (None, Err(error)) => Err(io(error).into()),
            (None, Ok(())) => Err(io(io::ErrorKind::NotFound.into()).into()),
        }
    }
}

fn dir(folder: &Utf8Path) -> StateDir {
    // It needs no key itself.
    StateDir { key: Key::at(Place::Nowhere), ..StateDir::at(folder) }
}

fn read(dir: &StateDir) -> Result<Option<Secret>, KeyError> {
    let path = dir.path().join(FILE);
    let Some(mut file) = dir.open(FILE, OFlags::RDONLY)? else { return Ok(None) };
    let io = |error| StateError::Io { path: path.clone(), error };
    if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
        return Err(KeyError::Open { path });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(io)?;
    let hash = blake3::Hash::from_hex(text.trim()).map_err(|_| KeyError::Broken { path })?;
    Ok(Some(Secret(*hash.as_bytes())))
}

fn hash(key: &Secret, purpose: &str, parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    for part in [purpose.as_bytes()].iter().chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(home: &Utf8Path) -> Key {
        Key::from_variables(|name| (name == "HOME").then(|| home.to_string()))
    }

    fn home() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    #[test]
    fn a_seal_is_of_one_key_one_purpose_and_one_record() {
        let (_one, one) = home();
        let (_two, two) = home();
        let seal = key(&one).seal("tests", &[b"a", b"b"]).unwrap();
        let holds =
            |home: &Utf8Path, purpose: &str, parts: &[&[u8]]| key(home).has_sealed(purpose, parts, seal);
        assert!(holds(&one, "tests", &[b"a", b"b"]));
        assert!(!holds(&one, "tests", &[b"ab", b""]) && !holds(&one, "step", &[b"a", b"b"]));
        assert!(!holds(&two, "tests", &[b"a", b"b"]));
        assert!(!two.join(".local").exists(), "to check something makes no key");
        let file = one.join(".local/state/imgforge/key");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let folder = file.parent().unwrap();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(folder.read_dir_utf8().unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn a_variable_is_a_key_for_several_machines_and_a_short_one_is_refused() {
        let of = |text: &str| {
            let text = text.to_owned();
            Key::from_variables(move |name| (name == KEY_VARIABLE).then(|| text.clone()))
        };
        let long = "0123456789abcdef0123456789abcdef";
        let seal = of(long).seal("step", &[b"x"]).unwrap();
        assert!(of(long).has_sealed("step", &[b"x"], seal));
        assert!(!of(&long.replace('0', "1")).has_sealed("step", &[b"x"], seal));
        assert!(matches!(of(&long[1..]).seal("step", &[b"x"]), Err(KeyError::Short)));
        assert!(matches!(Key::from_variables(|_| None).seal("step", &[]), Err(KeyError::NoPlace)));
        assert!(!format!("{:?}", of(long)).contains("0123"), "a key is not shown");
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        let (_guard, home) = home();
        key(&home).seal("step", &[]).unwrap();
        let file = home.join(".local/state/imgforge/key");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(matches!(key(&home).seal("step", &[]), Err(KeyError::Open { .. })));
        assert!(matches!(key(&home).ready(), Err(KeyError::Open { .. })));
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(key(&home).seal("step", &[]), Err(KeyError::Broken { .. })));
    }

    #[test]
    fn processes_that_make_the_key_at_once_have_the_same() {
        let (_guard, home) = home();
        let seals: Vec<blake3::Hash> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| key(&home).seal("step", &[b"x"]).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(seals.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
