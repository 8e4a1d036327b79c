//! The one task that owns the machine and the clock: it tells the machine what happens, and does what the machine says.

use std::{convert::Infallible, future::pending, net::SocketAddr, sync::Arc, time::Duration};

use mesh_core::{agent::OwnEndpoint, id::WireguardKey};
use mesh_tunnel::{Carrier, PublicKey};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    DevicePort, Wanted,
    device::DeviceSlot,
    events::EventQueue,
    host,
    reports::Reports,
    streams::{Happened, Streams},
};
use crate::{
    Action, Input, Paths,
    stream::{Network, resolve},
};

/// With nothing due it still wakes once an hour.
const FOREVER: Duration = Duration::from_secs(3600);

/// What reaches the task from outside.
pub(super) struct Inputs {
    pub(super) peers: watch::Receiver<Wanted>,
    /// This node is about to stop; answered when its peers are told.
    pub(super) stopping: mpsc::Receiver<oneshot::Sender<()>>,
    pub(super) stop: mpsc::Receiver<oneshot::Sender<()>>,
    pub(super) host_changed: watch::Receiver<()>,
    pub(super) local: watch::Receiver<Vec<SocketAddr>>,
    pub(super) registered: watch::Receiver<OwnEndpoint>,
}

/// What a name was resolved to, by the number of the server.
type Resolved = (usize, Result<Vec<SocketAddr>, String>);

/// The machine, and what does what it says.
pub(super) struct Shell<N> {
    paths: Paths,
    epoch: Instant,
    slot: Arc<DeviceSlot>,
    events: Arc<EventQueue>,
    reports: Arc<Reports>,
    streams: Streams<N>,
    resolving: JoinSet<Resolved>,
    /// Who waits until the peers are told that this node stops.
    telling: Option<oneshot::Sender<()>>,
}

impl<N: Network> Shell<N> {
    pub(super) fn new(
        paths: Paths,
        epoch: Instant,
        port: &DevicePort,
        reports: Arc<Reports>,
        streams: Streams<N>,
    ) -> Self {
        let (slot, events) = (Arc::clone(&port.slot), Arc::clone(&port.events));
        Self { paths, epoch, slot, events, reports, streams, resolving: JoinSet::new(), telling: None }
    }

    /// For ever.
    pub(super) async fn run(mut self, mut inputs: Inputs) -> Infallible {
        let done = loop {
            while let Some(action) = self.paths.poll_action() {
                self.act(action);
            }
            let wake = self.paths.poll_timeout().map_or_else(|| Instant::now() + FOREVER, |at| self.epoch + at);
            let input = tokio::select! {
                events = self.events.take() => Input::Device(Box::new(events)),
                happened = self.streams.next() => match happened {
                    Happened::Event(stream, event) => Input::Stream { stream, event },
                    Happened::Accepted(connection) => {
                        let stream = self.paths.accept(self.epoch.elapsed());
                        self.streams.answer(stream, connection);
                        continue;
                    }
                },
                // The senders end with the agent alone.
                Ok(()) = inputs.peers.changed() => match inputs.peers.borrow_and_update().clone() {
                    Some((peers, network)) => {
                        let tokens = peers.peers.iter().map(|(token, peer)| (peer.public_key, *token)).collect();
                        self.slot.set_tokens(tokens);
                        Input::Peers { peers, network }
                    }
                    None => continue,
                },
                Ok(()) = inputs.host_changed.changed() => Input::HostChanged { sources: host::sources() },
                Ok(()) = inputs.local.changed() => {
                    let addresses = inputs.local.borrow_and_update().clone();
                    Input::LocalAddresses { addresses, sources: host::sources() }
                }
                Ok(()) = inputs.registered.changed() => {
                    Input::Registered(inputs.registered.borrow_and_update().address())
                }
                Some(resolved) = self.resolving.join_next() => match resolved {
                    Ok((server, found)) => Input::Resolved { server, found },
                    Err(error) => {
                        tracing::error!(%error, "a name was not resolved");
                        continue;
                    }
                },
                () = sleep_until(wake) => Input::Timeout,
                Some(told) = inputs.stopping.recv() => {
                    self.telling = Some(told);
                    Input::Stopping
                }
                Some(done) = inputs.stop.recv() => break done,
            };
            self.paths.handle(input, self.epoch.elapsed());
        };
        self.stop(done).await
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Dial { stream, place } => self.streams.dial(stream, place),
            Action::Finish(stream) => self.streams.finish(stream),
            Action::Close { stream, .. } => self.streams.close(stream),
            Action::Resolve { server, name } => {
                self.resolving.spawn(async move { (server, resolve(name).await) });
            }
            Action::ExpectStun(servers) => self.events.expect_stun(servers),
            Action::Report(report) => self.reports.put(report),
            Action::PeersTold => {
                if let Some(telling) = self.telling.take() {
                    // The caller may not have waited.
                    let _ = telling.send(());
                }
            }
            Action::SendInner { .. }
            | Action::SetRoute { .. }
            | Action::SetStream { .. }
            | Action::Initiate { .. }
            | Action::TryEndpoint { .. }
            | Action::ForgetSources
            | Action::SendStun { .. } => self.act_on_device(action),
        }
    }

    fn act_on_device(&self, action: Action) {
        let Some(device) = self.slot.device() else { return };
        let carrier = |stream| self.streams.get(stream).map(|stream| stream as Arc<dyn Carrier>);
        match action {
            // What could not be sent is as good as lost.
            Action::SendInner { peer, path, packet } => {
                let _: bool = device.send_inner(key(peer), path, &packet);
            }
            Action::SendStun { to, request } => {
                let _: bool = device.send_raw(to, &request);
            }
            Action::ForgetSources => device.forget_sources(),
            Action::SetRoute { peer, route } => device.set_route(key(peer), route),
            // One that has ended meanwhile drops what it is given, and its end is the next event.
            Action::SetStream { peer, stream } => device.set_stream(key(peer), stream.and_then(carrier)),
            Action::Initiate { peer, stream } => {
                if let Some(stream) = carrier(stream) {
                    device.initiate(key(peer), &stream);
                }
            }
            Action::TryEndpoint { peer, endpoint } => device.try_endpoint(key(peer), endpoint),
            Action::Dial { .. }
            | Action::Finish(_)
            | Action::Close { .. }
            | Action::Resolve { .. }
            | Action::ExpectStun(_)
            | Action::PeersTold
            | Action::Report(_) => {}
        }
    }

    async fn stop(mut self, done: oneshot::Sender<()>) -> Infallible {
        self.paths.handle(Input::Stop, self.epoch.elapsed());
        while let Some(action) = self.paths.poll_action() {
            self.act(action);
        }
        self.streams.end().await;
        // The caller may not have waited.
        let _ = done.send(());
        pending().await
    }
}

const fn key(key: WireguardKey) -> PublicKey {
    PublicKey::from_bytes(key.0)
}
