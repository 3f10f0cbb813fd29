//! The two ends of a long cable: a tap device that stands on the bridge, and a socket on the node's own cable.
//!
//! Owns: the system calls that make them. Both speak of frames with the same small header of the kernel's before each,
//! which says what a network card would still have to do (checksum, cutting up), so that frames of any size pass
//! through as they are. What can hurt: a frame larger than the buffer; it is cut and then refused, which is a loss.
//! Refuses: looking into frames.
#![expect(unsafe_code, reason = "tap devices and packet sockets are made by calls that nix does not wrap")]

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// The kernel's header, then the frame.
pub(super) type Frame = Vec<u8>;

/// Header (10 bytes), the Ethernet header with two tags, and the largest frame that is not cut up yet.
pub(super) const FRAME_BYTES_MAX: usize = 10 + 22 + 65_536;
/// `TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_TSO6`: frames may come with these left to do.
const OFFLOADS: i32 = 1 | 2 | 4;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_IGNORE_OUTGOING: i32 = 23;

nix::ioctl_write_ptr_bad!(tun_set_iff, 0x4004_54ca, libc::ifreq);
nix::ioctl_write_int_bad!(tun_set_offload, 0x4004_54d0);

/// The end on the bridge.
pub(super) struct Tap(File);

impl Tap {
    /// Makes the device `name`, which goes with this.
    ///
    /// # Errors
    /// When the kernel has no tap devices, or refuses.
    pub(super) fn new(name: &str) -> Result<Self> {
        let path = "/dev/net/tun";
        let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.with_context(|| format!("cannot open `{path}`; a delay needs tap devices"))?;
        ensure!(name.len() < libc::IFNAMSIZ, "`{name}` is too long for an interface");
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let mut request =
            libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = i16::try_from(flags).context("flags of a tap device")?;
        // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`, which outlives the call.
        unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }.with_context(|| format!("no tap `{name}`"))?;
        // SAFETY: the descriptor is open, and the argument is a number.
        unsafe { tun_set_offload(file.as_raw_fd(), OFFLOADS) }.context("a tap without offloads")?;
        Ok(Self(file))
    }

    /// A frame that the bridge wants the node to have; `None` when there is none.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<Frame> {
        receive(self.0.as_fd(), buffer)
    }

    /// Gives the bridge a frame. One that it does not take is lost.
    pub(super) fn send(&self, frame: &Frame) {
        let _ = nix::unistd::write(&self.0, frame);
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The end towards the node.
pub(super) struct Cable(OwnedFd);

impl Cable {
    /// Opens the interface `name`.
    ///
    /// # Errors
    /// When it is not there, or the kernel refuses.
    pub(super) fn open(name: &str) -> Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll);
        let socket = socket.context("no packet socket")?;
        let index = nix::net::if_::if_nametoindex(name).with_context(|| format!("no interface `{name}`"))?;
        for option in [PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING] {
            let on: libc::c_int = 1;
            let length = libc::socklen_t::try_from(size_of::<libc::c_int>())?;
            // SAFETY: the descriptor is open; the kernel reads one number, which outlives the call.
            let done = unsafe {
                libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length)
            };
            Errno::result(done).with_context(|| format!("packet sockets without option {option}"))?;
        }
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET)?,
            sll_protocol: u16::try_from(libc::ETH_P_ALL)?.to_be(),
            sll_ifindex: i32::try_from(index)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
        // SAFETY: the descriptor is open; the kernel reads one address of that length, which outlives the call.
        let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        Errno::result(done).with_context(|| format!("cannot bind to `{name}`"))?;
        Ok(Self(socket))
    }

    /// A frame that the node sent; `None` when there is none.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<Frame> {
        receive(self.0.as_fd(), buffer)
    }

    /// Gives the node a frame. One that it does not take is lost.
    pub(super) fn send(&self, frame: &Frame) {
        let _ = nix::unistd::write(&self.0, frame);
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn receive(from: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<Frame> {
    let length = nix::unistd::read(from, buffer).ok()?;
    Some(buffer.get(..length)?.to_vec())
}
