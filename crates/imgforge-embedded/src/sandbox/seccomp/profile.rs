//! Reads a profile: which calls may be made, under which conditions. The form is told at the top of `docker.profile`.
//!
//! Conditions on the machine are decided here; those on a call's arguments are left for the program.

use std::io;

use rustix::thread::CapabilitySet;

/// The number of ABIs that `numbers.txt` has a column for.
pub(super) const ABIS: usize = 5;

/// A way in which programs call a kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Abi {
    /// The kernel's name for calls that come this way (`AUDIT_ARCH_*` of `linux/audit.h`).
    pub(super) arch: u32,
    /// The number that is added to the number of each call.
    pub(super) base: u32,
    /// Its column in `numbers.txt`.
    pub(super) column: usize,
}

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ARM: u32 = 0x4000_0028;

/// `__X32_SYSCALL_BIT`.
const X32: u32 = 0x4000_0000;

const AMD64_ABIS: &[Abi] = &[
    Abi { arch: X86_64, base: 0, column: 0 },
    Abi { arch: X86_64, base: X32, column: 2 },
    Abi { arch: I386, base: 0, column: 1 },
];
const ARM64_ABIS: &[Abi] =
    &[Abi { arch: AARCH64, base: 0, column: 3 }, Abi { arch: ARM, base: 0, column: 4 }];

/// The machine, as far as conditions ask about it.
#[derive(Debug)]
pub(super) struct Machine {
    /// The architecture, as Go and the profile name it.
    pub(super) arch: &'static str,
    pub(super) abis: &'static [Abi],
    /// The most capabilities that a program can have.
    pub(super) capabilities: CapabilitySet,
    /// The kernel's version.
    pub(super) kernel: (u32, u32),
}

impl Machine {
    /// This one, for programs with these capabilities.
    pub(super) fn this(capabilities: CapabilitySet) -> io::Result<Self> {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            arch => arch,
        };
        let abis = Self::abis(arch).ok_or_else(|| {
            let what = format!("the numbers of {arch}'s system calls are not known, so nothing is run on it");
            io::Error::new(io::ErrorKind::Unsupported, what)
        })?;
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let kernel = version(&release)
            .ok_or_else(|| io::Error::other(format!("`{release}` is no version of Linux")))?;
        Ok(Self { arch, abis, capabilities, kernel })
    }

    /// The ABIs of an architecture's kernel, as `archMap` of the profile has them.
    pub(super) fn abis(arch: &str) -> Option<&'static [Abi]> {
        match arch {
            "amd64" => Some(AMD64_ABIS),
            "arm64" => Some(ARM64_ABIS),
            _ => None,
        }
    }
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The fate of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    /// It ends with an error.
    Errno(u16),
}

/// A condition on an argument. Those of the profile are numbers of 32 bits for the kernel, whatever stands in the upper
/// half of the register; libseccomp compares all of it, and lets `socket` through with `0x1_0000_0028` for 40.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) argument: u32,
    pub(super) mask: u32,
    pub(super) value: u32,
    /// Whether the argument must have the value; otherwise it must have another one.
    pub(super) equal: bool,
}

/// The rules of a profile for a call: the first action whose checks hold.
pub(super) type Rules = Vec<(Action, Vec<Check>)>;

/// A call: its numbers, and what is said of it.
#[derive(Debug)]
pub(super) struct Call<'t> {
    pub(super) name: &'t str,
    pub(super) numbers: [Option<u32>; ABIS],
    pub(super) rules: Rules,
}

/// Reads a profile. Calls of which nothing is said on this machine are left out.
///
/// # Errors
/// In words, with the line: a file that is not of the form.
pub(super) fn rules<'t>(profile: &str, numbers: &'t str, machine: &Machine) -> Result<Vec<Call<'t>>, String> {
    let mut calls = read_numbers(numbers)?;
    let mut group = None;
    for (at, line) in lines(profile) {
        let wrong = |what: String| format!("docker.profile:{at}: {what}");
        if !line.starts_with(' ') {
            group = read_group(line, machine).map_err(wrong)?;
            continue;
        }
        for name in line.split_whitespace() {
            let at = calls
                .binary_search_by_key(&name, |call| call.name)
                .map_err(|_| wrong(format!("`{name}` is not in numbers.txt")))?;
            if let Some(rule) = &group {
                calls[at].rules.push(rule.clone());
            }
        }
    }
    calls.retain(|call| !call.rules.is_empty());
    // What is said without a condition is said of every call, as libseccomp has it.
    for call in &mut calls {
        call.rules.sort_by_key(|(_, checks)| !checks.is_empty());
    }
    Ok(calls)
}

/// Lines that say something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let says = |line: &str| !line.is_empty() && !line.starts_with('#');
    text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(move |(_, line)| says(line))
}

/// Calls of which nothing is said yet, by name.
pub(super) fn read_numbers(text: &str) -> Result<Vec<Call<'_>>, String> {
    let mut calls: Vec<Call<'_>> = Vec::new();
    for (at, line) in lines(text) {
        let wrong = || {
            format!(
                "numbers.txt:{at}: a name that comes after the one before and {ABIS} numbers or `-` were expected"
            )
        };
        let mut words = line.split(' ');
        let name = words.next().ok_or_else(wrong)?;
        let mut numbers = [None; ABIS];
        for number in &mut numbers {
            *number = match words.next().ok_or_else(wrong)? {
                "-" => None,
                word => Some(word.parse().map_err(|_| wrong())?),
            };
        }
        if words.next().is_some() || calls.last().is_some_and(|last| last.name >= name) {
            return Err(wrong());
        }
        calls.push(Call { name, numbers, rules: Vec::new() });
    }
    Ok(calls)
}

/// Reads the line above a group's names. `None` when it does not hold on this machine.
fn read_group(line: &str, machine: &Machine) -> Result<Option<(Action, Vec<Check>)>, String> {
    let mut words = line.split_whitespace();
    let action = match words.next().unwrap_or_default().split_once(':') {
        None if line.starts_with("allow") => Action::Allow,
        Some(("errno", number)) => {
            Action::Errno(number.parse().map_err(|_| format!("`{number}` is no number of an error"))?)
        }
        _ => return Err(format!("`{line}` begins with no action")),
    };
    let mut checks = Vec::new();
    let mut holds = true;
    for word in words {
        match holds_here(word, machine)? {
            Some(here) => holds &= here,
            None => checks.push(read_check(word).ok_or_else(|| format!("`{word}` is no condition"))?),
        }
    }
    Ok(holds.then_some((action, checks)))
}

/// Returns whether a condition on the machine holds. `None` for what is none.
fn holds_here(word: &str, machine: &Machine) -> Result<Option<bool>, String> {
    let (negated, word) = word.strip_prefix('!').map_or((false, word), |word| (true, word));
    let Some((kind, value)) = word.split_once(':') else { return Ok(None) };
    let holds = match kind {
        "arch" => value.split(',').any(|arch| arch == machine.arch),
        "cap" => {
            let known = value.strip_prefix("CAP_").and_then(CapabilitySet::from_name);
            machine.capabilities.contains(known.ok_or_else(|| format!("`{value}` is no capability"))?)
        }
        "kernel" => machine.kernel >= version(value).ok_or_else(|| format!("`{value}` is no version"))?,
        _ => return Err(format!("`{kind}` is no condition")),
    };
    Ok(Some(holds != negated))
}

/// `argN==VALUE`, `argN!=VALUE`, `argN&MASK==VALUE`.
fn read_check(word: &str) -> Option<Check> {
    let (left, equal, value) = match word.split_once("==") {
        Some((left, value)) => (left, true, value),
        None => word.split_once("!=").map(|(left, value)| (left, false, value))?,
    };
    let (argument, mask) = left.split_once('&').map_or((left, "0xffffffff"), |both| both);
    let argument = argument.strip_prefix("arg")?.parse().ok().filter(|argument| *argument < 6)?;
    Some(Check { argument, mask: number(mask)?, value: number(value)?, equal })
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
