//! The keyrings of a sandbox (`keyrings(7)`).

use std::io;

use rustix::io::Errno;

/// Gives this process, and all that it becomes and starts, an empty session keyring: the one that imgforge was
/// started with holds what its user has put there. The user's own keyring goes with the user's number, in a user
/// namespace that namespace's; nothing in a sandbox reaches either, since the filter refuses the calls.
///
/// # Errors
/// This user has as many keys as one may have.
pub(super) fn new_session() -> io::Result<()> {
    match keyutils_raw::keyctl_join_session_keyring(None).map_err(|error| Errno::from_raw_os_error(error.0)) {
        // A kernel without keys; or a filter outside that lets nobody in here make such calls either.
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        Err(Errno::DQUOT) => Err(io::Error::other(
            "this user has as many keys as one may have (/proc/key-users; the sysctls kernel.keys.maxkeys and kernel.keys.maxbytes)",
        )),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use keyutils_raw::{KEY_SPEC_SESSION_KEYRING, add_key, keyctl_join_session_keyring, keyctl_search};

    use super::*;

    #[test]
    fn what_was_in_the_session_keyring_is_not_found_any_more() {
        // Keyrings belong to a thread; this one ends with the test.
        let looked = std::thread::spawn(|| {
            let found = || keyctl_search(KEY_SPEC_SESSION_KEYRING, "user", "imgforge:test", None);
            keyctl_join_session_keyring(None).unwrap();
            add_key("user", "imgforge:test", b"secret", KEY_SPEC_SESSION_KEYRING).unwrap();
            let before = found();
            new_session().unwrap();
            (before, found())
        });
        let (before, after) = looked.join().unwrap();
        assert!(before.is_ok(), "{before:?}");
        assert_eq!(after.map_err(|error| Errno::from_raw_os_error(error.0)), Err(Errno::NOKEY));
    }
}
