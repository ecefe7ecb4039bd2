use std::collections::BTreeMap;

use imgforge_seccomp::Instruction;
use proptest::prelude::*;
use rustix::thread::CapabilitySet;

use super::profile::{Abi, Action, Call, Check, Machine};
use super::{NUMBERS, PROFILE, capabilities, compile, profile};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0x8000_0000;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ARM: u32 = 0x4000_0028;

/// What the kernel does with a program (`seccomp(2)`), as far as ours go.
fn run(program: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [number, arch].map(u32::to_le_bytes).concat();
    data.extend([0; 8]);
    data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    let (mut at, mut register) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let comparison = match code {
            0x20 => {
                let from = k as usize;
                register = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                continue;
            }
            0x54 => {
                register &= k;
                continue;
            }
            0x05 => {
                at += k as usize;
                continue;
            }
            0x06 => return k,
            0x15 => register == k,
            0x35 => register >= k,
            code => panic!("{code:#x} is none of ours"),
        };
        at += usize::from(if comparison { jt } else { jf });
    }
}

fn machine(arch: &'static str, capabilities: CapabilitySet) -> Machine {
    Machine { arch, abis: Machine::abis(arch).unwrap(), capabilities, kernel: (6, 1) }
}

fn docker(arch: &'static str, capabilities: CapabilitySet) -> Vec<Instruction> {
    let machine = machine(arch, capabilities);
    compile::program(machine.abis, &profile::rules(PROFILE, NUMBERS, &machine).unwrap())
}

/// The number of a call through the ABI of a column.
fn number(name: &str, column: usize) -> u32 {
    let calls = profile::read_numbers(NUMBERS).unwrap();
    let call = calls.iter().find(|call| call.name == name);
    call.and_then(|call| call.numbers[column]).unwrap_or_else(|| panic!("{name} has no number there"))
}

/// What becomes of a call on x86_64 with Docker's capabilities.
fn call(name: &str, first: u64) -> u32 {
    run(&docker("amd64", capabilities::DEFAULT), X86_64, number(name, 0), [first, 0, 0, 0, 0, 0])
}

#[test]
fn what_docker_lets_through_is_let_through_and_what_it_refuses_is_refused() {
    for allowed in ["read", "execve", "chroot", "ptrace", "process_vm_readv", "mseal", "openat2", "seccomp"] {
        assert_eq!(call(allowed, 0), ALLOW, "{allowed}");
    }
    for refused in
        ["unshare", "setns", "mount", "bpf", "kcmp", "pidfd_getfd", "process_madvise", "reboot", "mbind"]
    {
        let program = docker("amd64", capabilities::DEFAULT);
        assert_eq!(run(&program, X86_64, number(refused, 0), [0; 6]), EPERM, "{refused}");
    }
    // Numbers of x86_64 that the profile does not have at all.
    let unnamed = [
        ("add_key", 248),
        ("request_key", 249),
        ("keyctl", 250),
        ("userfaultfd", 323),
        ("io_uring_setup", 425),
    ];
    for (name, number) in unnamed {
        let program = docker("amd64", capabilities::DEFAULT);
        assert_eq!(run(&program, X86_64, number, [0; 6]), EPERM, "{name}");
    }
    assert_eq!(call("clone3", 0), ENOSYS, "the C library takes clone then");
}

#[test]
fn arguments_decide_by_what_the_kernel_reads_of_them() {
    assert_eq!(call("clone", 0x0120_0011), ALLOW, "a child");
    for flag in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(call("clone", flag | 0x11), EPERM, "a namespace, {flag:#x}");
    }
    for known in [0, 8, 0x20000, 0x20008, 0xffff_ffff] {
        assert_eq!(call("personality", known), ALLOW, "{known:#x}");
    }
    assert_eq!(call("personality", 0x0004_0000), EPERM, "ADDR_NO_RANDOMIZE");
    assert_eq!(call("socket", 2), ALLOW, "AF_INET");
    assert_eq!(call("socket", 40), EPERM, "AF_VSOCK");
    assert_eq!(call("socket", 0x1_0000_0028), EPERM, "the kernel takes an int");
}

#[test]
fn a_call_that_is_newer_than_the_profile_is_unknown_and_not_refused() {
    let program = docker("amd64", capabilities::DEFAULT);
    let last = number("removexattrat", 0);
    assert_eq!(run(&program, X86_64, last, [0; 6]), ALLOW);
    for newer in [last + 1, 0x3fff_ffff, 0x4000_0000 + last + 1000, u32::MAX] {
        assert_eq!(run(&program, X86_64, newer, [0; 6]), ENOSYS, "{newer:#x}");
    }
}

#[test]
fn a_capability_brings_its_calls() {
    let with = |capability| docker("amd64", capabilities::DEFAULT.union(capability));
    let admin = with(CapabilitySet::SYS_ADMIN);
    for name in ["unshare", "mount", "clone3", "clone"] {
        assert_eq!(run(&admin, X86_64, number(name, 0), [0x1000_0000, 0, 0, 0, 0, 0]), ALLOW, "{name}");
    }
    assert_eq!(run(&with(CapabilitySet::SYS_PTRACE), X86_64, number("kcmp", 0), [0; 6]), ALLOW);
    let without = docker("amd64", CapabilitySet::empty());
    assert_eq!(run(&without, X86_64, number("chroot", 0), [0; 6]), EPERM);
}

#[test]
fn every_way_to_call_the_kernel_is_filtered_by_its_own_numbers() {
    let program = docker("amd64", capabilities::DEFAULT);
    // 310 is unshare on i386, and process_vm_readv on x86_64.
    assert_eq!(run(&program, I386, number("unshare", 1), [0; 6]), EPERM);
    assert_eq!(run(&program, X86_64, number("unshare", 1), [0; 6]), ALLOW);
    assert_eq!(run(&program, I386, 288, [0; 6]), EPERM, "keyctl");
    assert_eq!(run(&program, X86_64, 0x4000_0000 + number("execve", 2), [0; 6]), ALLOW, "x32");
    assert_eq!(run(&program, X86_64, 0x4000_0000 + number("unshare", 2), [0; 6]), EPERM, "x32");
    assert_eq!(run(&program, ARM, number("read", 4), [0; 6]), KILL, "no such ABI on this machine");
    let other = docker("arm64", capabilities::DEFAULT);
    assert_eq!(run(&other, ARM, number("read", 4), [0; 6]), ALLOW);
    assert_eq!(run(&other, ARM, number("set_tls", 4), [0; 6]), ALLOW);
    assert_eq!(run(&other, 0xc000_00b7, number("unshare", 3), [0; 6]), EPERM);
    assert_eq!(run(&other, X86_64, 0, [0; 6]), KILL);
}

#[test]
fn the_numbers_are_those_of_the_kernels_headers() {
    let folder = ["/usr/include/x86_64-linux-gnu/asm", "/usr/include/asm"]
        .into_iter()
        .find(|folder| std::path::Path::new(folder).join("unistd_64.h").exists())
        .expect("the kernel's headers, which no linker goes without");
    let calls = profile::read_numbers(NUMBERS).unwrap();
    for (column, file) in [(0, "unistd_64.h"), (1, "unistd_32.h"), (2, "unistd_x32.h")] {
        let header = std::fs::read_to_string(format!("{folder}/{file}")).unwrap();
        let defined = |line: &str| {
            let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
            let number = number.trim_start_matches("(__X32_SYSCALL_BIT + ").trim_end_matches(')');
            Some((name.to_owned(), number.parse::<u32>().ok()?))
        };
        let defined: BTreeMap<String, u32> = header.lines().filter_map(defined).collect();
        assert!(defined.len() > 300, "{file} is read");
        for call in &calls {
            if let Some(number) = defined.get(call.name) {
                assert_eq!(call.numbers[column], Some(*number), "{} in {file}", call.name);
            }
        }
    }
}

#[test]
fn a_profile_that_is_not_of_the_form_is_told_with_its_line() {
    let machine = machine("amd64", capabilities::DEFAULT);
    let numbers = "read 0 3 0 63 3\n";
    for (profile, told) in [
        ("allow\n    reed\n", "docker.profile:2: `reed` is not in numbers.txt"),
        ("permit\n", "docker.profile:1: `permit` begins with no action"),
        ("\nallow cap:CAP_SYS_ADMEN\n", "docker.profile:2: `CAP_SYS_ADMEN` is no capability"),
        ("allow arg7==1\n", "docker.profile:1: `arg7==1` is no condition"),
        ("allow moon:full\n", "docker.profile:1: `moon` is no condition"),
        ("errno:much\n", "docker.profile:1: `much` is no number of an error"),
    ] {
        assert_eq!(profile::rules(profile, numbers, &machine).unwrap_err(), told);
    }
    let error = profile::rules("", "read 0 3\n", &machine).unwrap_err();
    let told = "a name that comes after the one before and 5 numbers or `-` were expected";
    assert_eq!(error, format!("numbers.txt:1: {told}"));
    let error = profile::rules("", "write 1 4 1 64 4\nread 0 3 0 63 3\n", &machine).unwrap_err();
    assert_eq!(error, format!("numbers.txt:2: {told}"));
}

/// What rules say, without spans and programs.
fn by_hand(abis: &[Abi], calls: &[Call<'_>], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    // The ABI with the highest base that the number reaches.
    let abi = abis.iter().filter(|abi| abi.arch == arch && abi.base <= number).max_by_key(|abi| abi.base);
    let Some(abi) = abi else { return KILL };
    let own = number - abi.base;
    let last = calls.iter().filter_map(|call| call.numbers[abi.column]).max();
    if last.is_none_or(|last| own > last) {
        return ENOSYS;
    }
    let holds = |check: &Check| {
        let argument = u32::try_from(arguments[check.argument as usize] & 0xffff_ffff).unwrap();
        (argument & check.mask == check.value) == check.equal
    };
    let call = calls.iter().find(|call| call.numbers[abi.column] == Some(own));
    let rule = call.and_then(|call| call.rules.iter().find(|(_, checks)| checks.iter().all(holds)));
    match rule.map(|(action, _)| *action) {
        Some(Action::Allow) => ALLOW,
        Some(Action::Errno(errno)) => 0x0005_0000 | u32::from(errno),
        None => EPERM,
    }
}

fn check() -> impl Strategy<Value = Check> {
    (0..6u32, prop_oneof![Just(u32::MAX), any::<u32>()], 0..4u32, any::<bool>())
        .prop_map(|(argument, mask, value, equal)| Check { argument, mask, value, equal })
}

fn rules() -> impl Strategy<Value = profile::Rules> {
    let action = prop_oneof![3 => Just(Action::Allow), 1 => (1..200u16).prop_map(Action::Errno)];
    let rule = (action, prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(check(), 1..3)]);
    prop::collection::vec(rule, 1..4).prop_map(|mut rules| {
        rules.sort_by_key(|(_, checks)| !checks.is_empty());
        rules
    })
}

proptest! {
    #[test]
    fn a_program_answers_what_the_rules_say(
        calls in prop::collection::btree_map(0..900u32, rules(), 0..500),
        asked in prop::collection::vec(
            (prop_oneof![Just(X86_64), Just(I386), Just(ARM)], 0..950u32, any::<bool>(), any::<[u8; 6]>()),
            200,
        ),
    ) {
        let machine = machine("amd64", capabilities::DEFAULT);
        // Each ABI has its own order.
        let calls: Vec<Call<'_>> = calls
            .into_iter()
            .map(|(number, rules)| Call {
                name: "",
                numbers: [Some(number), Some(899 - number), (number % 3 == 0).then_some(number / 3), None, None],
                rules,
            })
            .collect();
        let program = compile::program(machine.abis, &calls);
        for (arch, number, is_x32, arguments) in asked {
            let number = if is_x32 { number | 0x4000_0000 } else { number };
            let arguments = arguments.map(|byte| u64::from(byte % 5) | u64::from(byte) << 32);
            prop_assert_eq!(
                run(&program, arch, number, arguments),
                by_hand(machine.abis, &calls, arch, number, arguments)
            );
        }
    }
}
