//! Makes the program that the kernel runs at each system call (classic BPF, `seccomp(2)`).
//!
//! A call comes with the ABI through which it was made, its number and its arguments. The numbers of an ABI fall into
//! spans with the same answer, which are searched by halves.
//!
//! What no rule speaks of ends with `EPERM`; and with `ENOSYS` beyond the largest number that one speaks of, as runc
//! has it (`libcontainer/seccomp/patchbpf`), so that programs fall back from calls that are newer than the profile.

use imgforge_seccomp::Instruction;

use super::profile::{Abi, Action, Call, Check, Rules};

// `linux/bpf_common.h`: class, size or source, mode.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// Comparisons that go on to the jump behind them, or over it.
const WHEN_EQUAL: Instruction = Instruction { code: 0x15, jt: 0, jf: 1, k: 0 };
const UNLESS_EQUAL: Instruction = Instruction { code: 0x15, jt: 1, jf: 0, k: 0 };
const WHEN_AT_LEAST: Instruction = Instruction { code: 0x35, jt: 0, jf: 1, k: 0 };

// `linux/seccomp.h`.
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

// Where things are in `struct seccomp_data`; the lower half of an argument comes first on all machines that have a
// column in `numbers.txt`.
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
pub(super) fn program(abis: &[Abi], calls: &[Call<'_>]) -> Vec<Instruction> {
    let mut arches: Vec<u32> = Vec::new();
    for abi in abis {
        if !arches.contains(&abi.arch) {
            arches.push(abi.arch);
        }
    }
    let mut program = vec![with(LOAD, ARCH)];
    for arch in arches {
        skip(&mut program, UNLESS_EQUAL, arch, |program| {
            program.push(with(LOAD, NUMBER));
            search(program, &spans(abis.iter().filter(|abi| abi.arch == arch), calls));
        });
    }
    program.push(with(RETURN, KILL_PROCESS));
    program
}

/// All numbers, in order.
fn spans<'c>(abis: impl Iterator<Item = &'c Abi>, calls: &'c [Call<'c>]) -> Vec<Span<'c>> {
    let mut spans: Vec<Span<'c>> = Vec::new();
    for abi in abis {
        let known = calls.iter().filter_map(|call| Some((call.numbers[abi.column]?, says(&call.rules))));
        let mut known: Vec<(u32, Says<'c>)> = known.collect();
        known.sort_unstable_by_key(|(number, _)| *number);
        // arm has one call under two names.
        known.dedup_by_key(|(number, _)| *number);
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
fn search(program: &mut Vec<Instruction>, spans: &[Span<'_>]) {
    match spans {
        [] => program.push(with(RETURN, KILL_PROCESS)),
        [one] => answer(program, one.says),
        _ => {
            let (lower, upper) = spans.split_at(spans.len() / 2);
            skip(program, WHEN_AT_LEAST, upper[0].from, |program| search(program, lower));
            search(program, upper);
        }
    }
}

fn answer(program: &mut Vec<Instruction>, says: Says<'_>) {
    match says {
        Says::Always(action) => program.push(give(action)),
        Says::Rules(rules) => {
            for (action, checks) in rules {
                checked(program, checks, give(*action));
            }
            program.push(give(Action::Errno(EPERM)));
        }
    }
}

/// Does something when all checks hold.
fn checked(program: &mut Vec<Instruction>, checks: &[Check], then: Instruction) {
    let Some((check, rest)) = checks.split_first() else {
        program.push(then);
        return;
    };
    program.extend([with(LOAD, ARGUMENTS + 8 * check.argument), with(AND, check.mask)]);
    let comparison = if check.equal { UNLESS_EQUAL } else { WHEN_EQUAL };
    skip(program, comparison, check.value, |program| checked(program, rest, then));
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

/// Passes over what `block` adds, when a comparison says so. A comparison itself reaches 255 instructions far, and a
/// jump all of them; so it decides about the jump that follows it.
fn skip(
    program: &mut Vec<Instruction>,
    comparison: Instruction,
    value: u32,
    block: impl FnOnce(&mut Vec<Instruction>),
) {
    program.push(Instruction { k: value, ..comparison });
    let jump = program.len();
    program.push(with(JUMP, 0));
    block(program);
    let far = program.len() - jump - 1;
    program[jump].k = u32::try_from(far).expect("a profile has some hundred calls");
}
