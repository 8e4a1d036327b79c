//! The device as smoltcp sees it: a network card that cuts TCP into segments and completes checksums.

use std::num::{NonZeroU16, NonZeroUsize};
use std::ops::Range;

use mesh_offload::{VNET_LEN, packet::MAX_PACKET};
use mesh_tunnel::PacketLink;
use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken},
    time::Instant,
};

use crate::headers;

/// Where packets come from and go to: [`PacketLink`], and its twin in tests.
pub(crate) trait Packets {
    /// See [`PacketLink::receive`].
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize>;
    /// See [`PacketLink::has_room`].
    fn has_room(&mut self) -> bool;
    /// See [`PacketLink::send`].
    fn send(&mut self, header: &[u8; VNET_LEN], packet: &[u8]);
    /// See [`PacketLink::mtu`] and [`PacketLink::longest_superpacket`].
    fn sizes(&self) -> Sizes;
}

/// How long packets may be, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) mtu: u16,
    pub(crate) superpacket: Option<u16>,
}

impl Packets for PacketLink {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        Self::receive(self, buffer)
    }

    fn has_room(&mut self) -> bool {
        Self::has_room(self)
    }

    fn send(&mut self, header: &[u8; VNET_LEN], packet: &[u8]) {
        if !Self::send(self, &[header, packet]) {
            tracing::trace!("an answer is lost: the device is behind");
        }
    }

    fn sizes(&self) -> Sizes {
        Sizes { mtu: self.mtu(), superpacket: self.longest_superpacket() }
    }
}

/// The network card.
pub(crate) struct Card<P> {
    packets: P,
    /// The packet that [`Device::receive`] gives next, in front.
    read: Vec<u8>,
    next: Option<Range<usize>>,
    /// Where the one that was taken last is.
    taken: Range<usize>,
    /// Where packets are made that are to be sent.
    made: Vec<u8>,
}

impl<P: Packets> Card<P> {
    pub(crate) fn new(packets: P) -> Self {
        let longest = VNET_LEN + MAX_PACKET;
        Self { packets, read: vec![0; longest], next: None, taken: 0..0, made: vec![0; longest] }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        self.packets.sizes()
    }

    /// Takes the next packet from the link, to be given by [`Device::receive`]; `None` where there is none. What is no packet, or has a
    /// wrong checksum, is skipped.
    pub(crate) fn take(&mut self) -> Option<&[u8]> {
        loop {
            let len = self.packets.receive(&mut self.read)?;
            if headers::incoming(&self.read[..len]).is_some() {
                self.taken = VNET_LEN..len;
                self.next = Some(self.taken.clone());
                return Some(&self.read[VNET_LEN..len]);
            }
        }
    }

    /// Has [`Device::receive`] give the packet that was taken last again, with another acknowledgement number: a segment of TCP.
    pub(crate) fn give_again_with(&mut self, number: u32) {
        let Some(packet) = self.read.get_mut(self.taken.clone()) else { return };
        headers::set_acknowledgement(packet, number);
        self.next = Some(self.taken.clone());
    }

    pub(crate) fn has_room(&mut self) -> bool {
        self.packets.has_room()
    }
}

impl<P: Packets> Device for Card<P> {
    type RxToken<'a>
        = Received<'a>
    where
        P: 'a;
    type TxToken<'a>
        = ToSend<'a, P>
    where
        P: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = &self.read[self.next.take()?];
        Some((Received(packet), ToSend { packets: &mut self.packets, made: &mut self.made, segment: None }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        self.packets.has_room().then(|| ToSend { packets: &mut self.packets, made: &mut self.made, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let Sizes { mtu, superpacket } = self.sizes();
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = mtu.into();
        // Verified in `headers::incoming`, and completed by the device.
        capabilities.checksum.tcp = Checksum::None;
        capabilities.segmentation.tcpv4 = superpacket.and_then(|len| NonZeroUsize::new(len.into()));
        capabilities
    }
}

pub(crate) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

pub(crate) struct ToSend<'a, P> {
    packets: &'a mut P,
    made: &'a mut [u8],
    segment: Option<NonZeroU16>,
}

impl<P: Packets> TxToken for ToSend<'_, P> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, make: F) -> R {
        let packet = &mut self.made[..len];
        let made = make(packet);
        let header = headers::outgoing(packet, self.segment);
        self.packets.send(&header, packet);
        made
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}
