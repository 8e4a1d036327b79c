//! The streams: what happens to them goes into the table, and what the table decides is passed on, with the peers' keys in place of
//! their tokens.

use std::time::Duration;

use mesh_core::id::TokenId;
use mesh_tunnel::Proof;

use super::{Action, Paths};
use crate::stream::{
    StreamError, StreamEvent, StreamId,
    table::{self, Table},
};

/// A stream that is open or being made.
#[derive(Debug, Default)]
pub(super) struct OpenStream {
    /// Whom this side dialed; `None` where the other side did.
    dialed: Option<TokenId>,
    /// Whose packets came by it first.
    proved: Option<TokenId>,
    /// That peer has answered on it.
    is_answered: bool,
}

impl OpenStream {
    /// Whether the proof says something that was not known.
    fn is_new(&mut self, peer: TokenId, proof: Proof) -> bool {
        let is_first = self.proved.is_none();
        if *self.proved.get_or_insert(peer) != peer {
            return false;
        }
        let is_answer = proof == Proof::RoundTrip && !self.is_answered;
        self.is_answered |= is_answer;
        is_first || is_answer
    }
}

impl Paths {
    /// Another node dialed this one: the stream has this name from now on.
    pub fn accept(&mut self, now: Duration) -> StreamId {
        let stream = self.table_mut().accepted();
        self.streams.insert(stream, OpenStream::default());
        // One that had to make room for it is closed before anything else happens.
        self.take_table_actions(now);
        stream
    }

    pub(super) fn handle_stream(&mut self, stream: StreamId, event: StreamEvent, now: Duration) {
        // It may have been closed meanwhile.
        let Some(open) = self.streams.get_mut(&stream) else { return };
        let dialed = open.dialed;
        match (event, dialed) {
            (StreamEvent::Opened, Some(peer)) => self.table_mut().opened(peer, stream, now),
            (StreamEvent::DialFailed { error, is_gateway_reached }, Some(peer)) => {
                tracing::debug!(%peer, %error, "no stream");
                self.streams.remove(&stream);
                self.table_mut().dial_failed(peer, stream, error, is_gateway_reached, now);
            }
            (StreamEvent::HelloReceived, None) => {
                self.proxy_header = None;
                self.table_mut().hello_received(stream);
            }
            (StreamEvent::Proved { peer, proof }, _) => {
                if open.is_new(peer, proof) {
                    tracing::debug!(stream = stream.0, %peer, ?proof, "a peer proved itself on a stream");
                    self.table_mut().proved(stream, peer, proof, now);
                }
            }
            (StreamEvent::Ended(error), _) => {
                tracing::debug!(stream = stream.0, %error, "a stream ended");
                if matches!(error, StreamError::ProxyHeader(_)) {
                    self.proxy_header = Some((now, error.to_string()));
                }
                self.streams.remove(&stream);
                self.table_mut().ended(stream, error, now);
            }
            (StreamEvent::Opened | StreamEvent::DialFailed { .. }, None) | (StreamEvent::HelloReceived, Some(_)) => {}
        }
        self.want_report(now);
    }

    /// The device has this peer anew: it is given its stream, and the peer learns by it who we are.
    pub(super) fn attach_stream(&mut self, token: TokenId) {
        let Some((peer, stream)) = self.peers.get(&token).zip(self.table.current(token)) else { return };
        self.actions.push_back(Action::SetStream { peer: peer.key, stream: Some(stream) });
        self.actions.push_back(Action::Initiate { peer: peer.key, stream });
    }

    /// The table, for a change: what it then wants done is taken by [`Self::advance_table`].
    pub(super) fn table_mut(&mut self) -> &mut Table {
        self.is_table_changed = true;
        &mut self.table
    }

    /// Wakes the table if something of it is due, and does what it wants.
    pub(super) fn advance_table(&mut self, now: Duration) {
        if self.table_due.is_some_and(|at| at <= now) {
            self.table_mut().handle_timeout(now);
        }
        self.take_table_actions(now);
    }

    fn take_table_actions(&mut self, now: Duration) {
        // What the table wants may reach a peer, which may then want another stream.
        while std::mem::take(&mut self.is_table_changed) {
            while let Some(action) = self.table.poll_action() {
                self.act(action, now);
            }
            self.table_due = self.table.poll_timeout();
        }
    }

    fn act(&mut self, action: table::Action, now: Duration) {
        match action {
            table::Action::Dial { peer, stream, place } => {
                self.streams.insert(stream, OpenStream { dialed: Some(peer), ..OpenStream::default() });
                self.actions.push_back(Action::Dial { stream, place });
            }
            table::Action::Initiate { peer, stream } => {
                let peer = self.peers.get(&peer).map(|peer| peer.key);
                self.actions.extend(peer.map(|peer| Action::Initiate { peer, stream }));
            }
            table::Action::Away { peer, error } => self.away(peer, &error, now),
            table::Action::Ask(peer) => self.ask(peer, now),
            table::Action::Route { peer, stream, error } => self.route(peer, stream, error.as_ref(), now),
            table::Action::Finish(stream) => self.actions.push_back(Action::Finish(stream)),
            table::Action::Close(stream, error) => {
                if self.streams.remove(&stream).is_some() {
                    tracing::debug!(stream = stream.0, %error, "a stream is closed");
                    self.actions.push_back(Action::Close { stream, error });
                }
            }
        }
    }

    /// The peer is reached by this stream now, or by none.
    fn route(&mut self, token: TokenId, stream: Option<StreamId>, error: Option<&StreamError>, now: Duration) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        self.actions.push_back(Action::SetStream { peer: peer.key, stream });
        peer.set_stream(stream.is_some(), error, now);
        if stream.is_some() {
            self.watch_gateways(now);
        }
        self.step(token, now);
    }

    /// The peer has no stream still, for that reason now.
    fn away(&mut self, token: TokenId, error: &StreamError, now: Duration) {
        if let Some(peer) = self.peers.get_mut(&token) {
            peer.set_stream(false, Some(error), now);
            self.step(token, now);
        }
    }

    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
        self.actions.extend(self.streams.keys().map(|stream| Action::Finish(*stream)));
    }
}
