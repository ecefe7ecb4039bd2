//! Puts a filter of system calls (`seccomp(2)`) on this thread without `no_new_privs`, so that setuid programs that it
//! executes go on working.
//!
//! This crate is apart because it has the only `unsafe` block of the workspace: the call takes a pointer. What was
//! weighed instead: rustix and nix do not have the call; `seccompiler` (rust-vmm) and what stands on it always set
//! `no_new_privs`, take one architecture a program and kill whatever calls through another one, and have one answer
//! for all that is refused; the crate `libseccomp` can do it all through a C library that would have to be there
//! wherever imgforge is compiled. So a program is made elsewhere, in safe code, and this crate does nothing but hand
//! it to the kernel.

use std::io;

pub use libc::sock_filter as Instruction;

/// What a program may answer (`SECCOMP_RET_*` of `linux/seccomp.h`), and the part of it that says which.
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const ACTION: u32 = libc::SECCOMP_RET_ACTION_FULL;

/// The largest number that an error has (the kernel's `MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// `return` of a constant; the constant may also be in a register.
const RETURN: u16 = 0x06;
const CLASS: u16 = 0x07;

/// Filters the system calls of this thread from now on, and of all that it starts and becomes. The kernel checks the
/// program; filters that are there already stay, and the strictest answer counts.
///
/// A program may only allow a call, end it with an error or kill the process: to let a call seem to succeed that was
/// not carried out (an error of 0) would take the ground from under all code that stands on it.
///
/// # Errors
/// `EACCES` without `CAP_SYS_ADMIN` in this thread's user namespace; `EINVAL` for a program that the kernel does not
/// take, or where it has no filters; `InvalidInput` for one that answers something else, or is too long.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    if !program.iter().copied().filter(|one| one.code & CLASS == RETURN).all(is_answer) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an answer that a filter may not give"));
    }
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    if load(&program) == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is_answer(one: Instruction) -> bool {
    let errno = one.k & !ACTION;
    one.code == RETURN
        && match one.k & ACTION {
            ALLOW | KILL => true,
            ERRNO => (1..=MAX_ERRNO).contains(&errno),
            _ => false,
        }
}

#[allow(unsafe_code, reason = "no crate has this call in safe code")]
fn load(program: &libc::sock_fprog) -> libc::c_long {
    // SAFETY: seccomp(SECCOMP_SET_MODE_FILTER, 0, args) reads a `struct sock_fprog` and the `len` instructions that
    // it points to, and writes nothing (seccomp(2)). Both are borrowed by `install`, the only caller, for the whole
    // call; `len` is the slice's, and the layout is that of libc's own definitions. What the filter then answers is a
    // refusal or an end, as `install` has seen: no call seems to have done what it has not.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            std::ptr::from_ref(program),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn answer(k: u32) -> Instruction {
        Instruction { code: RETURN, jt: 0, jf: 0, k }
    }

    #[test]
    fn only_refusals_and_ends_are_answers() {
        for good in [ALLOW, KILL, ERRNO | 1, ERRNO | MAX_ERRNO] {
            assert!(is_answer(answer(good)), "{good:#x}");
        }
        for bad in [ERRNO, ERRNO | (MAX_ERRNO + 1), libc::SECCOMP_RET_TRACE, libc::SECCOMP_RET_USER_NOTIF] {
            assert!(!is_answer(answer(bad)), "{bad:#x}");
            let kind = install(&[answer(bad)]).map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::InvalidInput));
        }
        assert!(!is_answer(Instruction { code: RETURN | 0x10, ..answer(ALLOW) }), "the register's value");
    }

    #[test]
    fn the_kernel_refuses_a_program_that_does_not_end() {
        // Loads the number of the call, and nothing more. As another user than root the kernel does not even look.
        let error =
            install(&[Instruction { code: 0x20, jt: 0, jf: 0, k: 0 }]).map_err(|error| error.raw_os_error());
        assert!(matches!(error, Err(Some(libc::EINVAL | libc::EACCES))), "{error:?}");
    }
}
