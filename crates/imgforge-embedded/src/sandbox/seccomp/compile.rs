//! Makes the program that the kernel runs at each system call (classic BPF, `seccomp(2)`).
//!
//! A call comes with the ABI through which it was made, its number and its arguments. The numbers of an ABI fall into
//! spans with the same answer, which are searched by halves.
//!
//! What no rule speaks of ends with `EPERM`; and with `ENOSYS` beyond the largest number that one speaks of, as runc has it
//! (`libcontainer/seccomp/patchbpf`), so that programs fall back from calls that are newer than the profile.

use std::collections::BTreeMap;

use imgforge_seccomp::Instruction;

use super::profile::{Abi, Action, Call, Check, Rules};

// `linux/bpf_common.h`: class, size or source, mode.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

// `linux/seccomp.h`.
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

// Where things are in `struct seccomp_data`; the lower half of an argument comes first on all machines that have a column
// in `numbers.txt`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// The calls of an ABI from a number on, up to the next span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span<'r> {
    from: u32,
    says: Says<'r>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says<'r> {
    Always(Action),
    /// It depends on the arguments.
    Rules(&'r Rules),
}

/// Makes the program. What calls through an ABI that is not there is killed, as libseccomp has it.
pub(super) fn program(abis: &[Abi], calls: &[Call]) -> Vec<Instruction> {
    let mut arches: Vec<u32> = Vec::new();
    for abi in abis {
        if !arches.contains(&abi.arch) {
            arches.push(abi.arch);
        }
    }
    let mut program = vec![with(LOAD, ARCH)];
    for arch in arches {
        let mut block = vec![with(LOAD, NUMBER)];
        block.extend(search(&spans(abis.iter().filter(|abi| abi.arch == arch), calls)));
        program.extend(unless(JUMP_EQUAL, arch, block));
    }
    program.push(with(RETURN, KILL_PROCESS));
    program
}

/// All numbers, in order.
fn spans<'c>(abis: impl Iterator<Item = &'c Abi>, calls: &'c [Call]) -> Vec<Span<'c>> {
    let mut spans: Vec<Span<'c>> = Vec::new();
    for abi in abis {
        let known: BTreeMap<u32, Says<'c>> =
            calls.iter().filter_map(|call| Some((call.numbers[abi.column]?, says(&call.rules)))).collect();
        let mut next = 0;
        for (number, says) in known {
            if number > next {
                add(&mut spans, abi.base + next, Says::Always(Action::Errno(EPERM)));
            }
            add(&mut spans, abi.base + number, says);
            next = number + 1;
        }
        add(&mut spans, abi.base + next, Says::Always(Action::Errno(ENOSYS)));
    }
    spans
}

fn says(rules: &Rules) -> Says<'_> {
    match rules.first() {
        Some((action, checks)) if checks.is_empty() => Says::Always(*action),
        _ => Says::Rules(rules),
    }
}

/// Adds a span, unless it only goes on with what the one before says.
fn add<'r>(spans: &mut Vec<Span<'r>>, from: u32, says: Says<'r>) {
    if spans.last().is_none_or(|last| last.says != says) {
        spans.push(Span { from, says });
    }
}

/// Finds the span of a number, and answers.
fn search(spans: &[Span<'_>]) -> Vec<Instruction> {
    match spans {
        [] => vec![with(RETURN, KILL_PROCESS)],
        [one] => answer(one.says),
        _ => {
            let (lower, upper) = spans.split_at(spans.len() / 2);
            let mut program = skip_when(JUMP_AT_LEAST, upper[0].from, search(lower));
            program.extend(search(upper));
            program
        }
    }
}

fn answer(says: Says<'_>) -> Vec<Instruction> {
    match says {
        Says::Always(action) => vec![give(action)],
        Says::Rules(rules) => {
            let mut program: Vec<_> =
                rules.iter().flat_map(|(action, checks)| checked(checks, vec![give(*action)])).collect();
            program.push(give(Action::Errno(EPERM)));
            program
        }
    }
}

/// Does something when all checks hold.
fn checked(checks: &[Check], then: Vec<Instruction>) -> Vec<Instruction> {
    let Some((check, rest)) = checks.split_first() else { return then };
    let mut program = vec![with(LOAD, ARGUMENTS + 8 * check.argument), with(AND, check.mask)];
    let then = checked(rest, then);
    program.extend(if check.equal {
        unless(JUMP_EQUAL, check.value, then)
    } else {
        skip_when(JUMP_EQUAL, check.value, then)
    });
    program
}

fn give(action: Action) -> Instruction {
    match action {
        Action::Allow => with(RETURN, ALLOW),
        Action::Errno(errno) => with(RETURN, ERRNO | u32::from(errno)),
    }
}

fn with(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// Passes over a block when a comparison is true.
fn skip_when(code: u16, k: u32, block: Vec<Instruction>) -> Vec<Instruction> {
    jump_over(block, |near| Instruction { code, jt: near, jf: 0, k }, Instruction { code, jt: 0, jf: 1, k })
}

/// Passes over a block unless a comparison is true.
fn unless(code: u16, k: u32, block: Vec<Instruction>) -> Vec<Instruction> {
    jump_over(block, |near| Instruction { code, jt: 0, jf: near, k }, Instruction { code, jt: 1, jf: 0, k })
}

/// A comparison reaches 255 instructions far; beyond, it decides about a jump that follows it.
fn jump_over(
    block: Vec<Instruction>,
    near: impl FnOnce(u8) -> Instruction,
    far: Instruction,
) -> Vec<Instruction> {
    let mut program = match u8::try_from(block.len()) {
        Ok(len) => vec![near(len)],
        Err(_) => {
            let len = u32::try_from(block.len()).expect("a profile has some hundred calls");
            vec![far, with(JUMP, len)]
        }
    };
    program.extend(block);
    program
}
