//! A link in memory between a device and a TCP/IP stack of the same process, in place of an interface: a bounded queue of packets each
//! way, and a descriptor for each end that is readable while there is something to do.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_offload::VNET_LEN;
use mesh_offload::packet::MAX_PACKET;

use crate::config::DEFAULT_MTU;
use crate::error::Error;
use crate::sys::Event;
use crate::tun::longest_superpacket;

/// Bytes that may wait for the device. The stack keeps what has no room, and is told when there is some: enough for the device to have
/// its next batch while the stack makes more.
const TO_DEVICE: usize = 1 << 20;

/// Bytes that may wait for the stack. What comes beyond that is lost, as in the queue of a network card: more than the windows of the
/// connections that are busy at once.
const TO_STACK: usize = 4 << 20;

/// The longest superpacket with its header.
const LONGEST: usize = VNET_LEN + MAX_PACKET;

/// Packets that may wait each way, however short they are.
const PACKETS: usize = 8192;

/// Both ends of the link; the clones are the same link. It outlives the devices that are made with it
/// ([`DeviceOptions::inside`](crate::DeviceOptions::inside)), one at a time.
///
/// Every packet has a `virtio_net_hdr` in front ([`mesh_offload::VnetHeader`]), as with a TUN interface. The public methods are the
/// stack's end. They never block.
#[derive(Clone, Debug)]
pub struct PacketLink(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    to_device: Mutex<ToDevice>,
    to_stack: Mutex<PacketQueue>,
    device_ready: Event,
    stack_ready: Event,
    /// Never signalled: for the device's threads that have no packets to wait for.
    never: Event,
    mtu: AtomicU16,
    has_superpackets: AtomicBool,
}

#[derive(Debug)]
struct ToDevice {
    queue: PacketQueue,
    /// The device's event is set.
    is_signalled: bool,
    /// The stack has a packet that found no room.
    stack_waits: bool,
}

impl PacketLink {
    /// A link that no device uses yet.
    ///
    /// # Errors
    /// [`Error::Io`] where the system has no more descriptors.
    pub fn new() -> Result<Self, Error> {
        let event = || Event::new().map_err(Error::io("make an event descriptor"));
        let to_device = ToDevice { queue: PacketQueue::new(TO_DEVICE), is_signalled: false, stack_waits: false };
        Ok(Self(Arc::new(Shared {
            to_device: Mutex::new(to_device),
            to_stack: Mutex::new(PacketQueue::new(TO_STACK)),
            device_ready: event()?,
            stack_ready: event()?,
            never: event()?,
            mtu: AtomicU16::new(DEFAULT_MTU),
            has_superpackets: AtomicBool::new(false),
        })))
    }

    /// The length of the longest single packet in bytes. It changes while a device runs.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.0.mtu.load(Ordering::Relaxed)
    }

    /// The length of the longest superpacket of TCP in bytes, so that it goes out with one send; `None` where the device takes none.
    #[must_use]
    pub fn longest_superpacket(&self) -> Option<u16> {
        let longest = || u16::try_from(longest_superpacket(self.mtu())).unwrap_or(u16::MAX);
        self.0.has_superpackets.load(Ordering::Relaxed).then(longest)
    }

    /// Whether there is room for any packet. Where there is none, [`Self::as_fd`] is readable once there is.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let mut to_device = lock(&self.0.to_device);
        to_device.stack_waits = to_device.queue.room(LONGEST).is_none();
        !to_device.stack_waits
    }

    /// Gives the device a packet, in parts of which the first is the header. False where there is no room, which is never so after
    /// [`Self::has_room`], as long as one thread sends.
    pub fn send(&self, parts: &[&[u8]]) -> bool {
        let mut to_device = lock(&self.0.to_device);
        if !to_device.queue.push(parts.iter().copied()) {
            return false;
        }
        if !to_device.is_signalled {
            to_device.is_signalled = true;
            self.0.device_ready.signal();
        }
        true
    }

    /// Takes a packet of the device's: its length in bytes with the header, or `None` where there is none.
    ///
    /// # Panics
    /// Where `buffer` is shorter than 65,545 bytes, which a superpacket with its header may have.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        lock(&self.0.to_stack).pop(buffer)
    }

    /// Makes [`Self::as_fd`] readable, from any thread.
    pub fn wake(&self) {
        self.0.stack_ready.signal();
    }

    /// Has [`Self::as_fd`] wait for what comes from now on. To be called before [`Self::receive`] and [`Self::send`].
    pub fn clear(&self) {
        self.0.stack_ready.clear();
    }

    /// For a device that begins: what an earlier one left is no packet of it.
    pub(crate) fn attach(&self, mtu: u16, has_superpackets: bool) {
        lock(&self.0.to_device).queue.clear();
        lock(&self.0.to_stack).clear();
        self.0.has_superpackets.store(has_superpackets, Ordering::Relaxed);
        self.set_mtu(mtu);
    }

    pub(crate) fn set_mtu(&self, mtu: u16) {
        self.0.mtu.store(mtu, Ordering::Relaxed);
        self.wake();
    }

    /// The device's end: readable while there are packets for it, or never.
    pub(crate) fn device_fd(&self, has_packets: bool) -> RawFd {
        let event = if has_packets { &self.0.device_ready } else { &self.0.never };
        event.as_fd().as_raw_fd()
    }

    /// A packet of the stack's; `WouldBlock` where there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut to_device = lock(&self.0.to_device);
        let Some(len) = to_device.queue.pop(buffer) else {
            if std::mem::take(&mut to_device.is_signalled) {
                self.0.device_ready.clear();
            }
            return Err(io::ErrorKind::WouldBlock.into());
        };
        // Half of the room, so that the stack is not woken for each packet.
        if to_device.stack_waits && to_device.queue.bytes_waiting() <= TO_DEVICE / 2 {
            to_device.stack_waits = false;
            self.0.stack_ready.signal();
        }
        Ok(len)
    }

    /// Gives the stack a packet; `WouldBlock` where it is so far behind that there is no room.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut to_stack = lock(&self.0.to_stack);
        let was_empty = to_stack.is_empty();
        if !to_stack.push(parts.iter().map(|part| &**part)) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if was_empty {
            self.0.stack_ready.signal();
        }
        Ok(())
    }
}

impl AsFd for PacketLink {
    /// The stack's end: readable when there are packets for it, room for those that had none, another MTU, or after [`Self::wake`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.stack_ready.as_fd()
    }
}

fn lock<T>(queue: &Mutex<T>) -> MutexGuard<'_, T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Packets in one piece of memory, the oldest first, each in one piece. It begins at the front again whenever it is empty, so that little
/// of it is touched while its reader keeps up.
#[derive(Debug)]
struct PacketQueue {
    bytes: Vec<u8>,
    packets: VecDeque<(usize, usize)>,
    waiting: usize,
}

impl PacketQueue {
    fn new(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes], packets: VecDeque::new(), waiting: 0 }
    }

    fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Bytes of the packets that wait.
    fn bytes_waiting(&self) -> usize {
        self.waiting
    }

    fn clear(&mut self) {
        self.packets.clear();
        self.waiting = 0;
    }

    /// Adds a packet, given in parts and not empty; false where there is no room.
    fn push<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> bool {
        let len = parts.clone().map(<[u8]>::len).sum();
        let Some(start) = self.room(len) else { return false };
        let mut at = start;
        for part in parts {
            self.bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        self.packets.push_back((start, len));
        self.waiting += len;
        true
    }

    /// Where so many bytes are free in one piece, behind the newest packet.
    fn room(&self, len: usize) -> Option<usize> {
        let (Some((first, _)), Some((last, last_len))) = (self.packets.front(), self.packets.back()) else {
            return (len <= self.bytes.len()).then_some(0);
        };
        let end = last + last_len;
        if self.packets.len() == PACKETS {
            return None;
        }
        if last < first {
            return (end + len <= *first).then_some(end);
        }
        if end + len <= self.bytes.len() { Some(end) } else { (len <= *first).then_some(0) }
    }

    /// Takes the oldest packet to the beginning of `buffer`, and returns its length.
    fn pop(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let (start, len) = self.packets.pop_front()?;
        buffer[..len].copy_from_slice(&self.bytes[start..start + len]);
        self.waiting -= len;
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_readable(fd: &impl AsRawFd) -> bool {
        let mut watched = [crate::sys::watch(fd, libc::POLLIN)];
        crate::sys::wait_until(&mut watched, Some(std::time::Instant::now())).unwrap();
        watched[0].revents != 0
    }

    #[test]
    fn each_end_is_readable_while_it_has_something_to_do() {
        let link = PacketLink::new().unwrap();
        link.attach(1420, true);
        link.clear();
        let (device, mut buffer) = (link.device_fd(true), vec![0; 70_000]);
        assert!(!is_readable(&device) && !is_readable(&link.as_fd()));
        assert!(link.send(&[b"head", b"er"]) && link.send(&[b"two"]));
        assert!(is_readable(&device) && !is_readable(&link.device_fd(false)));
        assert_eq!(link.read(&mut buffer).unwrap(), 6);
        assert_eq!(&buffer[..6], b"header");
        assert!(is_readable(&device), "another packet");
        assert_eq!(link.read(&mut buffer).unwrap(), 3);
        assert_eq!(link.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!is_readable(&device));

        link.write(&[IoSlice::new(b"in"), IoSlice::new(b"side")]).unwrap();
        assert!(is_readable(&link.as_fd()));
        link.clear();
        assert_eq!(link.receive(&mut buffer), Some(6));
        assert_eq!(link.receive(&mut buffer), None);
        assert!(!is_readable(&link.as_fd()));
        link.set_mtu(1280);
        assert!(is_readable(&link.as_fd()) && link.mtu() == 1280);
    }

    #[test]
    fn a_stack_that_found_no_room_is_told_when_there_is_some() {
        let link = PacketLink::new().unwrap();
        link.clear();
        let (packet, mut buffer) = (vec![7; 60_000], vec![0; 70_000]);
        let sent = (0..1000).take_while(|_| link.has_room() && link.send(&[&packet])).count();
        assert!((14..=18).contains(&sent), "{sent}");
        link.read(&mut buffer).unwrap();
        assert!(!is_readable(&link.as_fd()), "it would be woken for each packet");
        for _ in 0..sent / 2 {
            link.read(&mut buffer).unwrap();
        }
        assert!(is_readable(&link.as_fd()));
    }

    #[test]
    fn what_the_stack_has_no_room_for_is_refused() {
        let link = PacketLink::new().unwrap();
        let write = || link.write(&[IoSlice::new(&[0; 60_000])]);
        let taken = (0..1000).take_while(|_| write().is_ok()).count();
        assert_eq!(taken, TO_STACK / 60_000);
        let short = PacketLink::new().unwrap();
        let taken = (0..10_000).take_while(|_| short.write(&[IoSlice::new(b"ack")]).is_ok()).count();
        assert_eq!(taken, PACKETS, "their number is bounded, too");
    }

    #[test]
    fn a_device_finds_nothing_of_the_one_before() {
        let link = PacketLink::new().unwrap();
        assert!(link.send(&[b"old"]));
        link.write(&[IoSlice::new(b"old")]).unwrap();
        link.attach(1420, false);
        assert_eq!(link.receive(&mut [0; 9]), None);
        assert_eq!(link.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(link.longest_superpacket(), None);
    }

    proptest! {
        /// Against a queue of vectors.
        #[test]
        fn packets_come_out_as_they_went_in(steps in prop::collection::vec(prop::option::of(1..40_usize), 1..300)) {
            let (mut queue, mut model) = (PacketQueue::new(100), VecDeque::new());
            let mut count = 0_u8;
            for step in steps {
                match step {
                    Some(len) => {
                        count = count.wrapping_add(1);
                        let packet = vec![count; len];
                        let (one, two) = packet.split_at(len / 2);
                        if queue.push([one, two].into_iter()) {
                            model.push_back(packet);
                        } else {
                            prop_assert!(queue.bytes_waiting() + 2 * len > 60, "half of it is always usable");
                        }
                    }
                    None => {
                        let mut buffer = [0; 64];
                        let popped = queue.pop(&mut buffer).map(|len| buffer[..len].to_vec());
                        prop_assert_eq!(popped, model.pop_front());
                    }
                }
                prop_assert_eq!(queue.bytes_waiting(), model.iter().map(Vec::len).sum::<usize>());
            }
        }
    }
}
