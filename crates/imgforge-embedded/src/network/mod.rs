//! A network of a step's or a container's own, from which other machines are reached, and not what listens on this
//! machine's loopback.
//!
//! ```text
//! the step's network            the gate                     this machine's network
//! eth0 10.88.0.2  -- veth --  10.88.0.1   10.88.0.228 tap0 -- slirp4netns or pasta: sockets
//! ```
//!
//! A user-mode stack turns what comes out of a `tap` into connections of its own, so that neither root nor a bridge
//! is needed. It believes what it is sent: a packet for 127.0.0.1 becomes a connection to this machine's 127.0.0.1,
//! whatever `--disable-host-loopback` says, and any process can send one (`SO_BINDTODEVICE`, or a raw socket). So the
//! stack's `tap` is in a network between, the gate, in which nothing runs: its kernel passes packets on and drops
//! what no router may pass on (RFC 1812, 5.3.7), where the step has no say.
//!
//! The gate has no IPv6 route, so neither has the step; Docker's bridge has none either.

mod keeper;
pub(crate) mod netlink;
mod stack;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};

use self::keeper::Keeper;
pub(crate) use self::keeper::{NAME, main};
use self::netlink::{End, LOOPBACK, Netlink};
pub(crate) use self::stack::Stack;

/// The address of a container in its own network: whoever connects to it from outside arrives there, so that what
/// listens on 127.0.0.1 alone is not reached, as in Docker. A step has the same.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);

/// The gate's, beside it.
const GATE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// The gate's towards the stack: the hundredth of the stack's network, which begins at 10.88.0.128 (slirp4netns(1)).
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 228);

/// The stack's own: the second.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 130);

/// The address at which the stack answers for this machine's resolver: the third.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 131);

/// The largest packet that both stacks take: less work for each byte.
const MTU: u32 = 65_520;

/// The gate's end of the pair.
const INNER: End<'_> = End { name: "veth0", index: 1001 };

/// The step's.
const OUTER: End<'_> = End { name: "eth0", index: 1002 };

/// A network from which other machines are reached, until it is dropped.
#[derive(Debug)]
pub(crate) struct Outside {
    network: OwnedFd,
    _keeper: Keeper,
}

impl Outside {
    /// Makes one. The calling process may make namespaces.
    ///
    /// # Errors
    /// Returns an error when there is no program for it, with what to install; when it does not start; what the kernel
    /// says.
    pub(crate) fn open() -> io::Result<Self> {
        let stack = Stack::ready("network \"default\"")?;
        // A thread of its own, since it goes from one network to the next.
        let (gate, inner) = std::thread::scope(|scope| {
            scope
                .spawn(|| Ok((Place::new()?, Place::new()?)))
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("no thread")))
        })
        .map_err(|error: io::Error| say("a network namespace", error))?;
        let mut keeper = Keeper::start(&stack, &gate.network)?;
        let tap = keeper.wait(&gate.heard)?;
        join(&gate.ask, &inner, tap).map_err(|error| say("the network between", error))?;
        Ok(Self { network: inner.network, _keeper: keeper })
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }
}

/// A new network namespace, and sockets that speak to it.
struct Place {
    network: OwnedFd,
    ask: Netlink,
    heard: Netlink,
}

impl Place {
    /// Makes one, with `lo` on, and leaves this thread in it.
    fn new() -> io::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let network = std::fs::File::open("/proc/thread-self/ns/net")?.into();
        let (ask, heard) = (Netlink::open()?, Netlink::listen()?);
        ask.up(LOOPBACK)?;
        Ok(Self { network, ask, heard })
    }
}

/// Puts the gate between a network and the stack's interface.
fn join(gate: &Netlink, inner: &Place, tap: u32) -> io::Result<()> {
    gate.up_with(tap, MTU)?;
    gate.address(tap, BEHIND, 25)?;
    gate.default_route(tap, ROUTER)?;
    gate.pair(&INNER, &OUTER, inner.network.as_fd(), MTU)?;
    gate.address(INNER.index, GATE, 30)?;
    gate.up(INNER.index)?;
    for index in [tap, INNER.index] {
        gate.forward(index)?;
    }
    // "This network" and loopback: the kernel drops them where this machine's settings, which a new network takes over,
    // do not say otherwise (`route_localnet`).
    for network in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(127, 0, 0, 0)] {
        gate.black_hole(network, 8)?;
    }
    inner.ask.up(OUTER.index)?;
    inner.ask.address(OUTER.index, ADDRESS, 30)?;
    inner.ask.default_route(OUTER.index, GATE)
}

/// Switches on what a network without another machine has: loopback, with one more address if it has one.
///
/// # Errors
/// Returns the kernel's error.
pub(crate) fn alone(address: Option<Ipv4Addr>) -> io::Result<()> {
    let socket = Netlink::open()?;
    socket.up(LOOPBACK).map_err(|error| say("the loopback interface", error))?;
    let Some(address) = address else { return Ok(()) };
    socket.address(LOOPBACK, address, 32).map_err(|error| say("the container's address", error))
}

/// `/etc/resolv.conf` inside: the stack asks this machine's resolver, wherever that listens. Its search list and
/// options are those of this machine, as Docker has it.
pub(crate) fn resolv_conf() -> String {
    inside(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn inside(here: &str) -> String {
    let is_kept =
        |line: &&str| matches!(line.split_whitespace().next(), Some("search" | "domain" | "options"));
    let kept = here.lines().filter(is_kept).map(str::to_owned);
    let lines = [format!("nameserver {RESOLVER}")].into_iter().chain(kept);
    lines.map(|line| line + "\n").collect()
}

fn say(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_of_the_stack_and_searched_as_on_this_machine() {
        let here = "# made by hand\nnameserver 127.0.0.53\nnameserver ::1\nsearch corp.example\noptions edns0 trust-ad\n";
        assert_eq!(inside(here), "nameserver 10.88.0.131\nsearch corp.example\noptions edns0 trust-ad\n");
        assert_eq!(inside(""), "nameserver 10.88.0.131\n");
    }
}
