//! The mode that a file of a context is hashed and sent with.
//!
//! An image is the same from every checkout of one commit. Git keeps one bit of a mode, whether a file is executable;
//! the rest comes from the umask of whoever has checked it out. What git does not keep is as it is on the disk, as
//! with Docker.
//!
//! | path                                        | mode                                                             |
//! |---------------------------------------------|------------------------------------------------------------------|
//! | a file that git tracks                      | 0755 when its owner may execute it, else 0644                    |
//! | a folder in which git tracks something      | 0755                                                             |
//! | anything else, and all where there is no git | as on the disk; 0664 counts as 0644, and 0775 as 0755           |
//! | what imgforge writes                        | 0644 or 0755                                                     |
//!
//! 0664 and 0775 are what the umask 002, usual where each user has a group of their own, makes of what is 0644 and
//! 0755 elsewhere. What is stricter is no accident of a usual umask, and stays: a key of mode 0600 that git ignores
//! is 0600 in the image. A private key that git does track is 0644, as in every other checkout, and a build warns of
//! one that the disk keeps from others.

/// The mode that a regular file (or another entry that is no folder) is sent with, of the mode that it has on the disk.
pub fn of_file(disk: u32, is_tracked: bool) -> u32 {
    if is_tracked { if disk & 0o100 != 0 { 0o755 } else { 0o644 } } else { without_group_write(disk) }
}

/// The mode that a folder is sent with, of the mode that it has on the disk.
pub fn of_folder(disk: u32, is_tracked: bool) -> u32 {
    if is_tracked { 0o755 } else { without_group_write(disk) }
}

fn without_group_write(disk: u32) -> u32 {
    match disk & 0o7777 {
        0o664 => 0o644,
        0o775 => 0o755,
        mode => mode,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a program that makes a file for all gets under a umask.
    fn made(executable: bool, umask: u32) -> u32 {
        (if executable { 0o777 } else { 0o666 }) & !umask
    }

    #[test]
    fn what_git_tracks_has_one_mode_whatever_the_umask_of_the_checkout() {
        for umask in [0o022, 0o002, 0o027, 0o077, 0o007, 0o000] {
            assert_eq!(of_file(made(false, umask), true), 0o644, "{umask:o}");
            assert_eq!(of_file(made(true, umask), true), 0o755, "{umask:o}");
            assert_eq!(of_folder(made(true, umask), true), 0o755, "{umask:o}");
        }
    }

    #[test]
    fn the_usual_umasks_are_the_same_without_git_and_stricter_ones_stay() {
        for executable in [false, true] {
            assert_eq!(of_file(made(executable, 0o002), false), of_file(made(executable, 0o022), false));
        }
        assert_eq!(of_folder(0o775, false), of_folder(0o755, false));
        for mode in [0o600, 0o640, 0o400, 0o444, 0o700, 0o750, 0o1777, 0o4755, 0o2775, 0o660, 0o777] {
            assert_eq!((of_file(mode, false), of_folder(mode, false)), (mode, mode), "{mode:o}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_git_does_not_keep_becomes_more_open(disk in 0_u32..0o10_000) {
            prop_assert_eq!(of_file(disk, false) & !disk, 0);
            prop_assert_eq!(of_folder(disk, false) & !disk, 0);
        }
    }
}
