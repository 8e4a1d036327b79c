//! Probes of the UDP path to a peer, beside its traffic: which and when is decided in `path_mtu/search.rs`, here they are sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::paths::PathSet;
use super::{Context, Peer, Size, State};
use crate::noise::{HEADER, OVERHEAD};
use crate::output::{Event, Priority};
use crate::path::Path;
use crate::path_mtu::{BASE, Message, Probes, Question, Search};

impl Peer {
    /// The largest inner packet to be sent to it, in bytes: the interface's MTU, or less where a path in use is known to carry less.
    pub(crate) fn path_mtu(&self, interface_mtu: u16) -> u16 {
        self.path_mtu.load(Ordering::Relaxed).min(interface_mtu)
    }

    /// Packets of this size go by these paths, or would if the paths carried it: reason to ask whether they do.
    pub(super) fn path_mtu_used(
        self: &Arc<Self>,
        state: &mut State,
        context: &mut Context<'_>,
        paths: &PathSet,
        size: Size,
    ) {
        let Size { longest, mtu } = size;
        if longest < self.path_mtu(BASE + 1).into() {
            return;
        }
        let Some(endpoint) = paths.udp else {
            // A stream carries any packet.
            return self.path_mtu.store(u16::MAX, Ordering::Relaxed);
        };
        let address = endpoint.address;
        let search = state.search.get_or_insert_with(|| Box::new(Search::new(address, mtu, context.now)));
        let probes = search.large_sent(address, mtu, context.now);
        self.send_probes(state, context, &probes);
    }

    /// Packets are not sent because no path in use carries them, nor anything that could be made of them; a wider path is looked for as if
    /// they were. True where their sender is to be told: not more often than it may matter.
    pub(crate) fn refuse(self: &Arc<Self>, context: &mut Context<'_>, size: Size) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let paths = state.paths(context.now);
        if paths.is_empty() || self.is_mute(state) {
            return false;
        }
        self.path_mtu_used(state, context, &paths, size);
        self.schedule(state, context);
        // By another path or endpoint than a moment ago, it may pass.
        if size.longest <= self.path_mtu(size.mtu).into() {
            return false;
        }
        state.search.as_mut().is_some_and(|search| search.may_tell(context.now))
    }

    /// Does what is due of a search that began.
    pub(super) fn poll_path_mtu(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>) {
        let endpoint = state.endpoint.map(|endpoint| endpoint.address);
        if let Some(search) = &mut state.search {
            let probes = search.due(endpoint, context.now);
            self.send_probes(state, context, &probes);
        }
    }

    /// The peer sent this by that path. What probes the path comes by UDP alone; the acknowledgement may take another.
    pub(super) fn receive_path_mtu(
        self: &Arc<Self>,
        state: &mut State,
        context: &mut Context<'_>,
        message: Message,
        path: Path,
    ) {
        match message {
            Message::Probe(_) if path != Path::Udp => {}
            Message::Probe(question) => {
                let acknowledgement = Message::Acknowledgement(question);
                let paths = state.paths(context.now);
                if self.send_path_mtu(state, context, acknowledgement, paths).is_some() {
                    state.timers.sent(context.now);
                }
            }
            Message::Acknowledgement(question) => {
                let endpoint = state.endpoint.map(|endpoint| endpoint.address);
                if let Some(search) = &mut state.search {
                    let probes = search.acknowledged(question, endpoint, context.now);
                    self.send_probes(state, context, &probes);
                }
            }
        }
    }

    /// Sends these, and takes over what was found, where packets go by UDP.
    fn send_probes(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>, probes: &Probes) {
        let goes_by_udp = state.takes_udp();
        if let Some(search) = &mut state.search {
            if goes_by_udp {
                self.path_mtu.store(search.usable(), Ordering::Relaxed);
            }
            if let Some(mtu) = search.report().filter(|_| context.tap.is_some()) {
                context.output.report(&Event::PathMtu { peer: self.key, mtu });
            }
        }
        for size in &probes.sizes {
            let probe = Message::Probe(Question { number: probes.number, size: *size });
            let paths = PathSet { udp: state.endpoint, ..PathSet::default() };
            self.send_path_mtu(state, context, probe, paths);
        }
    }

    /// `None` where there is no session to seal in. That the system refuses it, because it is too long for the link, is no failure.
    fn send_path_mtu(&self, state: &State, context: &mut Context<'_>, message: Message, paths: PathSet) -> Option<()> {
        let session = state.sessions.sealing(context.now)?;
        let (len, beginning, copies) = (message.len(), message.beginning(), paths.count());
        let seal = |buffer: &mut [u8]| {
            buffer[HEADER..][..beginning.len()].copy_from_slice(&beginning);
            session.seal(buffer, len).map(drop)
        };
        context.output.send_written(None, len + OVERHEAD, seal, paths, Priority::First)?;
        self.count_sent((len + OVERHEAD) as u64 * copies);
        Some(())
    }
}
