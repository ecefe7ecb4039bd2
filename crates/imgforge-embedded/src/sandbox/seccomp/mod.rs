//! The system calls that a program in a sandbox may make: those of Docker's default profile, which is data
//! (`docker.profile`, `numbers.txt`).
//!
//! [`profile`] reads it, for the capabilities and the kernel that there are; [`compile`] makes the program that the
//! kernel runs at each call. Both are done in the process that becomes the program, which is a new one for each step:
//! they take 0.2 ms (1.2 ms unoptimised), no more than to hand the program on would. The kernel remembers for each
//! number whether it is always allowed, and does not run the program for it.

mod compile;
mod profile;
#[cfg(test)]
mod tests;

use std::io;

use rustix::io::Errno;

use self::profile::Machine;
use super::capabilities;

/// Docker's default profile.
const PROFILE: &str = include_str!("docker.profile");

/// The numbers of the calls that it names.
const NUMBERS: &str = include_str!("numbers.txt");

/// Filters the calls of this process and of all that it becomes and starts. It needs `CAP_SYS_ADMIN`, and leaves
/// `no_new_privs` as it is, so that setuid programs go on working.
///
/// # Errors
/// A kernel without filters; an architecture whose calls have no numbers here.
pub(super) fn install() -> io::Result<()> {
    let machine = Machine::this(capabilities::DEFAULT)?;
    let rules = profile::rules(PROFILE, NUMBERS, &machine).map_err(io::Error::other)?;
    let program = compile::program(machine.abis, &rules);
    imgforge_seccomp::install(&program).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::INVAL | Errno::NOSYS) => io::Error::other(format!(
            "{error}: this kernel has no filters of system calls (CONFIG_SECCOMP_FILTER), without which nothing is run"
        )),
        _ => error,
    })
}
