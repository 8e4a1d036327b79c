//! This node's own gateway, where no dial to another node tells whether it is there: a node that all others dial sees only that
//! nothing comes, or that its streams end. It then dials itself, by the way that the others take, and keeps nothing of the stream but
//! the answer.

use std::time::Duration;

use mesh_core::id::TokenId;

use super::{Action, Peer, Table, dialing::backoff};
use crate::stream::{Domain, Place, StreamError, StreamId};

/// From the moment when all streams were lost: others who dial are given time to do so.
const FIRST_CHECK: Duration = Duration::from_millis(500);
/// A gateway by which nothing comes is said to be one again within this, as long as that is so.
const DOUBTED_FOR: Duration = Duration::from_secs(8);

/// Where this node is dialed, and whether that works.
#[derive(Debug)]
pub(super) struct Own {
    token: TokenId,
    place: Place,
    due: Option<Duration>,
    dialing: Option<StreamId>,
    /// Dials since the streams were lost.
    dials: u32,
    /// There are streams, and nothing comes by them: since then, as far as is known.
    doubted: Option<Duration>,
}

impl Table {
    /// This node is dialed there from now on, or nowhere.
    pub(crate) fn set_own(&mut self, token: TokenId, place: Option<Place>) {
        if self.own.as_ref().map(|own| (own.token, &own.place)) == place.as_ref().map(|place| (token, place)) {
            return;
        }
        let before = self.own.take();
        if let Some(dial) = before.and_then(|own| own.dialing) {
            self.gateways.cancel(dial);
            self.actions.push_back(Action::Close(dial, StreamError::Replaced));
        }
        self.own = place.map(|place| Own { token, place, due: None, dialing: None, dials: 0, doubted: None });
    }

    /// The gateway that leads to the peer, or by which the peer comes.
    pub(super) fn domain_of<'a>(&'a self, peer: &'a Peer) -> Option<&'a Domain> {
        peer.place.as_ref().or(self.own.as_ref().map(|own| &own.place)).map(|place| &place.domain)
    }

    /// Nothing comes by this gateway: if it is this node's own and no peer can be dialed there, this node is.
    pub(super) fn doubt_own(&mut self, domain: &Domain, now: Duration) {
        if let Some(own) = self.own.as_mut().filter(|own| own.place.domain == *domain) {
            own.doubted = Some(now);
            own.due.get_or_insert(now);
        }
    }

    /// Dials this node itself, if it is time.
    pub(super) fn dial_own(&mut self, now: Duration) {
        let is_cut_off = self.is_cut_off(now);
        let jitter = self.rng.below(FIRST_CHECK);
        let Self { own: Some(own), gateways, actions, next_stream, .. } = self else { return };
        if !is_cut_off {
            (own.due, own.dials) = (None, 0);
            return;
        }
        if own.dialing.is_some() {
            return;
        }
        let due = *own.due.get_or_insert(now + FIRST_CHECK + jitter);
        if due <= now && gateways.begin_dial(&own.place.domain, StreamId(*next_stream), now) {
            let stream = StreamId(*next_stream);
            *next_stream += 1;
            (own.dialing, own.due) = (Some(stream), None);
            actions.push_back(Action::Dial { peer: own.token, stream, place: own.place.clone() });
        }
    }

    /// When that is next to be done, as far as is known.
    pub(super) fn own_due(&self) -> Option<Duration> {
        let own = self.own.as_ref().filter(|own| own.dialing.is_none())?;
        self.gateways.allows_at(&own.place.domain, own.due?)
    }

    /// A dial of this node to itself is over; `false` if it was none. It is made again, less often where the gateway is there.
    pub(super) fn own_ended(&mut self, stream: StreamId, is_reached: bool, now: Duration) -> bool {
        let Self { own: Some(own), rng, .. } = self else { return false };
        if own.dialing.take_if(|dial| *dial == stream).is_none() {
            return false;
        }
        own.due = Some(if is_reached { now + backoff(own.dials, rng) } else { now });
        own.dials = if is_reached { own.dials.saturating_add(1) } else { 0 };
        own.doubted = own.doubted.filter(|_| !is_reached);
        true
    }

    /// There are peers that come by this node's own gateway, nothing of them comes, and no dial of this side's would tell why.
    fn is_cut_off(&self, now: Duration) -> bool {
        let Some(own) = &self.own else { return false };
        let mut behind = self.peers.values().filter(|peer| self.domain_of(peer) == Some(&own.place.domain)).peekable();
        let is_doubted = own.doubted.is_some_and(|doubted| now < doubted + DOUBTED_FOR);
        let is_lost = |peer: &Peer| peer.place.is_none() && (peer.current.is_none() || is_doubted);
        behind.peek().is_some() && behind.all(is_lost)
    }
}
