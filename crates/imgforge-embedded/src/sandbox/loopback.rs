//! Switches the loopback interface of a new network namespace on.

use std::io;
use std::net::Ipv4Addr;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `RTM_NEWLINK` of `linux/rtnetlink.h`.
const NEW_LINK: u16 = 16;
/// `RTM_NEWADDR`.
const NEW_ADDRESS: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const FLAGS: u16 = 1 | 4;
/// `NLMSG_ERROR`, which is also the answer that says that all is well.
const ANSWER: u16 = 2;
/// `IFF_UP`.
const UP: u32 = 1;
/// `lo` is always the first interface (`LOOPBACK_IFINDEX` of `net/net_namespace.h`).
const INDEX: u32 = 1;
/// `IFA_LOCAL` of `linux/if_addr.h`.
const LOCAL: u16 = 2;

/// Switches `lo` on; it has 127.0.0.1 and ::1 from then on.
///
/// # Errors
/// What the kernel says.
pub(super) fn up() -> io::Result<()> {
    // struct ifinfomsg: family, padding, type; index, flags, and which of them change.
    let mut body = vec![0; 4];
    for number in [INDEX, UP, UP] {
        body.extend(number.to_ne_bytes());
    }
    ask(NEW_LINK, &body)
}

/// Gives `lo` one more address.
///
/// # Errors
/// What the kernel says.
pub(super) fn add(address: Ipv4Addr) -> io::Result<()> {
    // struct ifaddrmsg: family, length of the prefix, flags, scope; index. Then struct rtattr: its length, its kind.
    let mut body = vec![u8::try_from(AddressFamily::INET.as_raw()).unwrap_or(2), 32, 0, 0];
    body.extend(INDEX.to_ne_bytes());
    body.extend(8_u16.to_ne_bytes());
    body.extend(LOCAL.to_ne_bytes());
    body.extend(address.octets());
    ask(NEW_ADDRESS, &body)
}

fn ask(kind: u16, body: &[u8]) -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // struct nlmsghdr: length, kind, flags, sequence, from.
    let len = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 512];
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let answer = &answer[..len];
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let error = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(ANSWER), Some(0)) => Ok(()),
        (Some(ANSWER), Some(error)) => Err(io::Error::from_raw_os_error(-error)),
        _ => Err(io::Error::other("the kernel's answer about the loopback interface makes no sense")),
    }
}
