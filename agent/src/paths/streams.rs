//! Between the streams and the device: what comes by a stream is opened by the device there is, and what happens to streams is told
//! to the driver.

use std::sync::Arc;

use mesh_core::id::TokenId;
use tokio::sync::mpsc::UnboundedSender;

use super::device::{Slot, StreamEnd};
use crate::gateway::{Datagrams, Device, Inbound, Proof, Stream, Trouble};

/// A peer has a stream, or has none any more and why. A stream that takes another's place is told too.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) peer: TokenId,
    pub(super) is_open: bool,
    pub(super) trouble: Option<Trouble>,
}

/// What the transport takes for the device.
#[derive(Debug)]
pub(super) struct Streams {
    slot: Arc<Slot>,
    /// As many as the transport has of them: bounded by its own pace.
    routed: UnboundedSender<Routed>,
}

impl Streams {
    pub(super) const fn new(slot: Arc<Slot>, routed: UnboundedSender<Routed>) -> Self {
        Self { slot, routed }
    }
}

impl Device for Streams {
    fn inbound(&self, stream: &Arc<Stream>) -> Box<dyn Inbound> {
        Box::new(Reader { slot: Arc::clone(&self.slot), stream: Arc::clone(stream), end: None })
    }

    fn greet(&self, peer: TokenId, stream: &Arc<Stream>) {
        self.slot.greet(peer, stream);
    }

    fn route(&self, peer: TokenId, stream: Option<&Arc<Stream>>, trouble: Option<&Trouble>) {
        // At once, and not by way of the driver: the stream before this one is about to take nothing any more.
        self.slot.set_stream(peer, stream);
        // Nobody is there to hear it when everything stops.
        drop(self.routed.send(Routed { peer, is_open: stream.is_some(), trouble: trouble.cloned() }));
    }
}

/// Reads one stream with the device there is; what comes while there is none is lost, as it is on a wire.
struct Reader {
    slot: Arc<Slot>,
    stream: Arc<Stream>,
    end: Option<(u64, Option<Box<dyn StreamEnd>>)>,
}

impl Inbound for Reader {
    fn receive(&mut self, datagrams: &mut Datagrams<'_>) {
        let Self { slot, stream, end } = self;
        let generation = slot.generation();
        let (_, end) = match end {
            Some(known) if known.0 == generation => known,
            other => other.insert((generation, slot.device().map(|device| device.inbound(stream)))),
        };
        let Some(end) = end else { return };
        let (buffer, ranges) = datagrams.all();
        end.receive(buffer, ranges, &mut |key, proof| {
            if (proof == Proof::RoundTrip || stream.peer().is_none())
                && let Some(owner) = slot.owner(key)
            {
                stream.prove(owner, proof);
            }
        });
    }
}
