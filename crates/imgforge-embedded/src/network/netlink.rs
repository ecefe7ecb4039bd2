//! The few messages of rtnetlink(7) that a network of our own needs: interfaces, addresses, routes.
//!
//! Numbers are those of `linux/rtnetlink.h`, `linux/if_link.h` and `linux/ip.h`, by the names that stand above them.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `NLMSG_ERROR`, which is also the answer that says that all is well.
const ANSWER: u16 = 2;
/// `RTM_NEWLINK`.
const NEW_LINK: u16 = 16;
/// `RTM_SETLINK`.
const SET_LINK: u16 = 19;
/// `RTM_NEWADDR`.
const NEW_ADDRESS: u16 = 20;
/// `RTM_NEWROUTE`.
const NEW_ROUTE: u16 = 24;

/// `NLM_F_REQUEST | NLM_F_ACK`.
const FLAGS: u16 = 1 | 4;
/// `NLM_F_EXCL | NLM_F_CREATE`.
const NEW: u16 = 0x200 | 0x400;

/// `RTMGRP_LINK`: who is in this group hears of new interfaces.
const LINKS: u32 = 1;
/// `IFF_UP`.
const UP: u32 = 1;
/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;
/// `AF_INET`.
const INET: u8 = 2;

/// `lo` is always the first interface (`LOOPBACK_IFINDEX` of `net/net_namespace.h`).
pub(super) const LOOPBACK: u32 = 1;

/// An end of a pair of interfaces.
pub(super) struct End<'a> {
    /// The name of the interface.
    pub(super) name: &'a str,
    /// Its number; nobody else has it.
    pub(super) index: u32,
}

/// A socket that speaks to the network in which it was opened, whoever uses it later.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one in this thread's network.
    pub(super) fn open() -> io::Result<Self> {
        // Protocol 0 is NETLINK_ROUTE.
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self(socket))
    }

    /// One that hears of new interfaces; it is used for nothing else.
    pub(super) fn listen() -> io::Result<Self> {
        let socket = Self::open()?;
        rustix::net::bind(&socket.0, &SocketAddrNetlink::new(0, LINKS))?;
        Ok(socket)
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Waits for the next message. The number of the interface when it is about one of Ethernet's kind.
    pub(super) fn heard(&self) -> io::Result<Option<u32>> {
        let mut message = [0; 1 << 13];
        let (len, _) = rustix::net::recv(&self.0, &mut message[..], RecvFlags::empty())?;
        let message = &message[..len];
        let is_new = number16(message, 4) == Some(NEW_LINK) && number16(message, 18) == Some(ETHERNET);
        Ok(number32(message, 20).filter(|_| is_new))
    }

    /// Switches an interface on.
    pub(super) fn up(&self, index: u32) -> io::Result<()> {
        self.ask(&Message::link(NEW_LINK, 0, index, UP))
    }

    /// The same, with a size for its packets.
    pub(super) fn up_with(&self, index: u32, mtu: u32) -> io::Result<()> {
        let mut message = Message::link(NEW_LINK, 0, index, UP);
        // IFLA_MTU.
        message.attribute(4, &mtu.to_ne_bytes());
        self.ask(&message)
    }

    /// Gives an interface an address.
    pub(super) fn address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        // struct ifaddrmsg: family, length of the prefix, flags, scope; index.
        let mut message = Message::new(NEW_ADDRESS, NEW);
        message.bytes(&[INET, prefix, 0, 0]);
        message.bytes(&index.to_ne_bytes());
        // IFA_LOCAL and IFA_ADDRESS.
        for kind in [2, 1] {
            message.attribute(kind, &address.octets());
        }
        self.ask(&message)
    }

    /// Sends what has no nearer route through an interface.
    pub(super) fn default_route(&self, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
        let mut message = Message::route(0, UNICAST);
        // RTA_GATEWAY, RTA_OIF.
        message.attribute(5, &gateway.octets());
        message.attribute(4, &index.to_ne_bytes());
        self.ask(&message)
    }

    /// Drops what is sent to `address/prefix`.
    pub(super) fn black_hole(&self, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut message = Message::route(prefix, BLACK_HOLE);
        // RTA_DST.
        message.attribute(1, &address.octets());
        self.ask(&message)
    }

    /// Makes a pair of interfaces: one here, one in another network. Neither can be on before both are there.
    pub(super) fn pair(
        &self,
        ours: &End<'_>,
        theirs: &End<'_>,
        network: BorrowedFd<'_>,
        mtu: u32,
    ) -> io::Result<()> {
        let fd = u32::try_from(network.as_raw_fd()).map_err(io::Error::other)?;
        let name = |end: &End<'_>| [end.name.as_bytes(), b"\0"].concat();
        let mut message = Message::link(NEW_LINK, NEW, ours.index, 0);
        // IFLA_IFNAME, IFLA_MTU.
        message.attribute(3, &name(ours));
        message.attribute(4, &mtu.to_ne_bytes());
        // IFLA_LINKINFO { IFLA_INFO_KIND, IFLA_INFO_DATA { VETH_INFO_PEER { ... IFLA_NET_NS_FD } } }.
        message.nested(18, |info| {
            info.attribute(1, b"veth");
            info.nested(2, |data| {
                data.nested(1, |peer| {
                    peer.interface(theirs.index, 0);
                    peer.attribute(3, &name(theirs));
                    peer.attribute(4, &mtu.to_ne_bytes());
                    peer.attribute(28, &fd.to_ne_bytes());
                });
            });
        });
        self.ask(&message)
    }

    /// Has the kernel pass on what arrives at an interface and is for somebody else, and answer ARP for whom it
    /// passes on to. What is for 127.0.0.0/8 it drops.
    pub(super) fn forward(&self, index: u32) -> io::Result<()> {
        let mut message = Message::link(SET_LINK, 0, index, 0);
        // IFLA_AF_SPEC { AF_INET { IFLA_INET_CONF { IPV4_DEVCONF_... } } }.
        message.nested(26, |families| {
            families.nested(u16::from(INET), |inet| {
                inet.nested(1, |conf| {
                    // FORWARDING, PROXY_ARP, SEND_REDIRECTS, ACCEPT_SOURCE_ROUTE, ROUTE_LOCALNET.
                    for (kind, value) in [(1, 1_u32), (3, 1), (6, 0), (9, 0), (26, 0)] {
                        conf.attribute(kind, &value.to_ne_bytes());
                    }
                });
            });
        });
        self.ask(&message)
    }

    fn ask(&self, message: &Message) -> io::Result<()> {
        let bytes = message.finish()?;
        rustix::net::sendto(&self.0, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0; 1 << 12];
        let (len, _) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        let answer = &answer[..len];
        match (number16(answer, 4), number32(answer, 16).map(u32::cast_signed)) {
            (Some(ANSWER), Some(0)) => Ok(()),
            (Some(ANSWER), Some(error)) => Err(io::Error::from_raw_os_error(-error)),
            _ => Err(io::Error::other("the kernel's answer about an interface makes no sense")),
        }
    }
}

/// `RTN_UNICAST`.
const UNICAST: u8 = 1;
/// `RTN_BLACKHOLE`.
const BLACK_HOLE: u8 = 6;

/// A request to the kernel.
struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        Self { kind, flags: FLAGS | flags, body: Vec::new() }
    }

    fn link(kind: u16, flags: u16, index: u32, on: u32) -> Self {
        let mut message = Self::new(kind, flags);
        message.interface(index, on);
        message
    }

    /// A route of the main table.
    fn route(prefix: u8, kind: u8) -> Self {
        // struct rtmsg: family, lengths of the destination and the source, TOS; table, protocol, scope, kind; flags.
        let mut message = Self::new(NEW_ROUTE, NEW);
        message.bytes(&[INET, prefix, 0, 0, 254, 4, 0, kind, 0, 0, 0, 0]);
        message
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.body.extend(bytes);
    }

    /// struct ifinfomsg: family, padding, type; index, flags, and which of them change.
    fn interface(&mut self, index: u32, on: u32) {
        self.bytes(&[0; 4]);
        for number in [index, on, on] {
            self.bytes(&number.to_ne_bytes());
        }
    }

    /// struct rtattr: its length, its kind, its value up to a multiple of four.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |message| message.bytes(value));
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.body.len();
        self.bytes(&[0; 2]);
        self.bytes(&kind.to_ne_bytes());
        fill(self);
        let len = u16::try_from(self.body.len() - start).unwrap_or(u16::MAX);
        self.body[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    /// struct nlmsghdr before it: length, kind, flags, sequence, from.
    fn finish(&self) -> io::Result<Vec<u8>> {
        let len = u32::try_from(16 + self.body.len()).map_err(io::Error::other)?;
        let mut message = len.to_ne_bytes().to_vec();
        message.extend(self.kind.to_ne_bytes());
        message.extend(self.flags.to_ne_bytes());
        message.extend(1_u32.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(&self.body);
        Ok(message)
    }
}

fn number16(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

fn number32(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?))
}
