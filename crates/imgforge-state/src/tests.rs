use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use super::*;

fn place() -> (tempfile::TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(dir.path().join("state")).unwrap();
    let state = StateDir::at(&path).with_key(Key::of(&[7; 32]));
    (dir, state)
}

fn mode(path: &Utf8Path) -> u32 {
    path.metadata().unwrap().mode() & 0o777
}

#[test]
fn what_is_written_is_read_and_nobody_else_can_look_in() {
    let (_guard, state) = place();
    assert_eq!(state.read("a/b/file").unwrap(), None);
    assert!(!state.path().exists(), "to read makes nothing");
    state.replace("a/b/file", b"1").unwrap();
    state.replace("a/b/file", b"2").unwrap();
    state.append_line("a/b/file", "3").unwrap();
    assert_eq!(state.read("a/b/file").unwrap().unwrap(), b"2\n3\n");
    assert_eq!(state.names("a/b").unwrap(), ["file"], "no other file is left");
    state.remove("a/b/file").unwrap();
    state.remove("a/b/file").unwrap();
    assert_eq!(state.names("a/b").unwrap(), [""; 0]);
    assert_eq!((mode(state.path()), mode(&state.path().join("a"))), (0o700, 0o700));
    std::fs::set_permissions(state.path(), PermissionsExt::from_mode(0o755)).unwrap();
    state.folder("").unwrap();
    assert_eq!(mode(state.path()), 0o700, "an older one is closed");
}

#[test]
fn a_folder_below_is_made_with_those_above_it_and_no_link_on_the_way_is_followed() {
    let (_guard, state) = place();
    let store = state.sub("store");
    store.replace("format", b"1").unwrap();
    assert_eq!(store.read("format").unwrap().unwrap(), b"1");
    let elsewhere = state.path().with_file_name("elsewhere");
    std::fs::rename(state.path(), &elsewhere).unwrap();
    symlink(&elsewhere, state.path()).unwrap();
    assert!(store.read("format").is_err() && store.replace("format", b"2").is_err());
    assert_eq!(std::fs::read(elsewhere.join("store/format")).unwrap(), b"1");
}

#[test]
fn a_file_that_would_fill_the_memory_is_not_read() {
    let (_guard, state) = place();
    state.replace("cache/files", b"1").unwrap();
    let large = File::options().write(true).open(state.path().join("cache/files")).unwrap();
    large.set_len(1 << 40).unwrap();
    let refused = state.read("cache/files").unwrap_err().to_string();
    assert!(refused.contains("larger than 1024 MiB"), "{refused}");
}

#[test]
fn a_sealed_file_counts_whole_under_its_own_name_and_version() {
    const FILE: Sealed = Sealed { name: "cache/file", version: 1 };
    let (_guard, state) = place();
    state.replace_sealed(&FILE, b"body").unwrap();
    assert_eq!(state.read_sealed(&FILE).unwrap().unwrap(), b"body");
    assert_eq!(state.read_sealed(&Sealed { version: 2, ..FILE }).unwrap(), None);
    let good = state.read(FILE.name).unwrap().unwrap();
    state.replace("cache/other", &good).unwrap();
    assert_eq!(state.read_sealed(&Sealed { name: "cache/other", ..FILE }).unwrap(), None);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        for bytes in [&bad, &good[..at]] {
            state.replace(FILE.name, bytes).unwrap();
            assert_eq!(state.read_sealed(&FILE).unwrap(), None, "byte {at}");
        }
    }
}

#[test]
fn a_line_that_was_cut_anywhere_takes_no_other_with_it() {
    const FILE: &str = "cache/lines";
    let (_guard, state) = place();
    state.append_sealed(FILE, "first").unwrap();
    let before = state.read(FILE).unwrap().unwrap().len();
    state.append_sealed(FILE, "second").unwrap();
    let whole = state.read(FILE).unwrap().unwrap();
    for cut in 0..=whole.len() {
        state.replace(FILE, &whole[..cut]).unwrap();
        state.append_sealed(FILE, "third").unwrap();
        state.append_sealed(FILE, "fourth").unwrap();
        let mut expected = vec!["third", "fourth"];
        // A line that lacks nothing but its end is whole.
        expected.splice(0..0, (cut + 1 >= whole.len()).then_some("second"));
        expected.splice(0..0, (cut + 1 >= before).then_some("first"));
        assert_eq!(state.sealed_lines(FILE).unwrap(), expected, "{cut} bytes");
    }
}

/// Everything that can be asked of a place below a folder.
fn refused(state: &StateDir, folder: &str) {
    let file = format!("{folder}/file");
    let errors = [
        state.folder(folder).map(drop),
        state.read(&file).map(drop),
        state.replace(&file, b"x"),
        state.append_line(&file, "x"),
        state.remove(&file),
        state.names(folder).map(drop),
    ];
    for (index, error) in errors.into_iter().enumerate() {
        assert!(matches!(error, Err(StateError::Link { .. })), "{index}: {error:?}");
    }
}

#[test]
fn a_link_is_followed_nowhere() {
    let (dir, state) = place();
    let outside = Utf8Path::from_path(dir.path()).unwrap().join("outside");
    std::fs::create_dir_all(outside.join("b")).unwrap();
    std::fs::write(outside.join("file"), "kept").unwrap();
    std::fs::write(outside.join("b/file"), "kept").unwrap();
    symlink(&outside, state.path()).unwrap();
    refused(&state, "b");
    std::fs::remove_file(state.path()).unwrap();
    state.folder("").unwrap();
    symlink(&outside, state.path().join("a")).unwrap();
    refused(&state, "a");
    refused(&state, "a/b");
    symlink(outside.join("file"), state.path().join("link")).unwrap();
    assert!(matches!(state.read("link"), Err(StateError::Link { .. })));
    assert!(matches!(state.append_line("link", "x"), Err(StateError::Link { .. })));
    let found = state.strange().unwrap();
    let found: Vec<&Utf8Path> = found.iter().filter_map(StateError::in_the_way).collect();
    assert_eq!(found, [state.path().join("a"), state.path().join("link")]);
    // The link itself is replaced or removed, and what it leads to stays.
    state.replace("link", b"new").unwrap();
    symlink(outside.join("file"), state.path().join("other")).unwrap();
    state.remove("other").unwrap();
    for file in ["file", "b/file"] {
        assert_eq!(std::fs::read_to_string(outside.join(file)).unwrap(), "kept");
    }
    assert_eq!(outside.read_dir_utf8().unwrap().count(), 2);
}

#[test]
fn a_pipe_is_refused_instead_of_waited_for() {
    let (_guard, state) = place();
    let pipe = state.folder("").unwrap().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(state.read("pipe"), Err(StateError::Kind { .. })));
    assert!(matches!(state.append_line("pipe", "x"), Err(StateError::Kind { .. })));
    assert!(matches!(state.folder("pipe"), Err(StateError::Kind { .. })));
    state.folder("folder").unwrap();
    assert!(matches!(state.append_line("folder", "x"), Err(StateError::Kind { .. })));
}

#[test]
fn what_belongs_to_another_user_is_refused_wherever_it_is() {
    let (_guard, state) = place();
    state.replace("a/file", b"x").unwrap();
    let own = rustix::process::geteuid().as_raw();
    let of = |uid: u32| StateDir { owners: Owners::of_process().and(uid), ..state.clone() };
    let stranger = StateDir { owners: Owners::only(own + 1), ..state.clone() };
    assert!(matches!(stranger.read("a/file"), Err(StateError::Foreign { uid, .. }) if uid == own));
    assert!(matches!(stranger.folder("a"), Err(StateError::Foreign { .. })));
    assert_eq!(stranger.strange().unwrap().len(), 1);
    assert_eq!(of(own + 1).read("a/file").unwrap().unwrap(), b"x");
    assert_eq!(of(own + 1).strange().unwrap().len(), 0);
}
