//! Where this node is reached: as configured, or the address of this machine from which it talks to its RPC endpoints,
//! followed as it changes.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mesh_chain::RpcUrl;
use mesh_core::agent::OwnEndpoint;
use mesh_paths::shell::source_address;
use tokio::{
    net::lookup_host,
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::config::{Config, EndpointChoice};

/// How long a name may take to resolve.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// A registration waits this long for an address: one without would have to be corrected as soon as DHCP has answered.
const SEARCH: Duration = Duration::from_secs(5);
/// Between two checks while nothing is found.
const SEARCH_EVERY: Duration = Duration::from_secs(1);
/// Between two checks of an address that was found; a change of this machine causes one too.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Another address must still be there after this: routes come and go while a network is set up.
const SETTLE: Duration = Duration::from_secs(2);

/// What is known before the first check.
#[must_use]
pub fn configured(config: &Config) -> OwnEndpoint {
    match config.endpoint {
        EndpointChoice::Fixed(endpoint) => OwnEndpoint::Known(endpoint),
        EndpointChoice::None => OwnEndpoint::None,
        EndpointChoice::Auto => OwnEndpoint::Searching,
    }
}

/// Finds an address and follows it, for ever. What was found once stays until another one takes its place: a machine
/// without network has not moved.
pub async fn follow(
    mut remotes: Remotes,
    listen_port: u16,
    found: watch::Sender<OwnEndpoint>,
    mut machine_changed: watch::Receiver<()>,
) -> Infallible {
    let begun = Instant::now();
    loop {
        let known = *found.borrow();
        let now = remotes.local_address().await.map(|address| SocketAddr::new(address, listen_port));
        let next = match (known, now) {
            (OwnEndpoint::Known(known), Some(now)) if known != now => {
                sleep(SETTLE).await;
                let again = remotes.local_address().await.map(|address| SocketAddr::new(address, listen_port));
                again.map_or(OwnEndpoint::Known(known), OwnEndpoint::Known)
            }
            (_, Some(now)) => OwnEndpoint::Known(now),
            (OwnEndpoint::Known(_) | OwnEndpoint::None | OwnEndpoint::NotFound, None) => known,
            (OwnEndpoint::Searching, None) if begun.elapsed() >= SEARCH => {
                tracing::info!(
                    "no address of this machine is worth registering: peers must be reached from here (`--endpoint IP:PORT` sets one)"
                );
                OwnEndpoint::NotFound
            }
            (OwnEndpoint::Searching, None) => known,
        };
        found.send_if_modified(|known| std::mem::replace(known, next) != next);
        let pause = if next.address().is_some() { LOOK_EVERY } else { SEARCH_EVERY };
        tokio::select! {
            () = sleep(pause) => {}
            // The sender lives as long as the agent does.
            Ok(()) = machine_changed.changed() => sleep(SEARCH_EVERY).await,
        }
    }
}

/// The RPC endpoints, as places to which a route leads.
#[derive(Debug)]
pub struct Remotes(Vec<Remote>);

#[derive(Debug)]
struct Remote {
    host: String,
    port: u16,
    /// A name is resolved once: the source address depends on the route, not on the name.
    addresses: Vec<SocketAddr>,
}

impl Remotes {
    /// Names are not resolved yet.
    #[must_use]
    pub fn new(urls: &[RpcUrl]) -> Self {
        let parts = urls.iter().filter_map(RpcUrl::host_and_port);
        Self(parts.map(|(host, port)| Remote { host, port, addresses: Vec::new() }).collect())
    }

    /// The address from which this machine talks to the first of them to which it has a route. Sends nothing but DNS queries:
    /// connecting a UDP socket only asks the routing table.
    async fn local_address(&mut self) -> Option<IpAddr> {
        for remote in &mut self.0 {
            remote.resolve().await;
            let mut sources = remote.addresses.iter().copied().filter_map(source_address);
            if let Some(address) = sources.find(|address| is_worth_registering(*address)) {
                return Some(address);
            }
        }
        None
    }
}

impl Remote {
    async fn resolve(&mut self) {
        if self.addresses.is_empty()
            && let Ok(Ok(addresses)) = timeout(LOOKUP_TIMEOUT, lookup_host((self.host.as_str(), self.port))).await
        {
            self.addresses = addresses.collect();
        }
    }
}

/// Whether peers may reach this machine at it. Some addresses are those of every machine of a kind: QEMU's user network gives 10.0.2.15
/// to each guest, docker 172.17.0.x to
/// each container. Other private addresses may be shared with peers.
pub(crate) fn is_worth_registering(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let everywhere = (a, b, c) == (10, 0, 2) || (a, b) == (172, 17);
            !(everywhere || v4.is_loopback() || v4.is_unspecified() || v4.is_link_local())
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_is_not_worth_registering() {
        let local = "127.0.0.1:8545".parse().unwrap();
        assert_eq!(source_address(local), Some([127, 0, 0, 1].into()));
        let mut remotes = Remotes(vec![Remote { host: String::new(), port: 0, addresses: vec![local] }]);
        assert_eq!(remotes.local_address().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_does_not_resolve_is_given_up_for_a_while() {
        let urls = ["http://no-such-host.invalid:1".parse().unwrap(), "http://127.0.0.1:1".parse().unwrap()];
        let (found, mut known) = watch::channel(OwnEndpoint::Searching);
        let (_changed, machine_changed) = watch::channel(());
        let start = Instant::now();
        let following = tokio::spawn(follow(Remotes::new(&urls), 51821, found, machine_changed));
        known.changed().await.unwrap();
        assert_eq!(*known.borrow_and_update(), OwnEndpoint::NotFound);
        assert!(start.elapsed() >= SEARCH, "{:?}", start.elapsed());
        following.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_stays_while_there_is_no_way_out() {
        let known = OwnEndpoint::Known("203.0.113.7:51821".parse().unwrap());
        let (found, mut now) = watch::channel(known);
        let (changed, machine_changed) = watch::channel(());
        let urls = ["http://127.0.0.1:1".parse().unwrap()];
        let following = tokio::spawn(follow(Remotes::new(&urls), 51821, found, machine_changed));
        for _ in 0..3 {
            changed.send_replace(());
            assert!(
                timeout(Duration::from_secs(300), now.changed()).await.is_err(),
                "it was given up: {:?}",
                now.borrow()
            );
        }
        following.abort();
    }

    #[test]
    fn addresses_that_every_guest_has_are_not_worth_registering() {
        for (address, worth) in [
            ("10.0.2.15", false),
            ("172.17.0.2", false),
            ("169.254.1.1", false),
            ("fe80::1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("192.168.1.7", true),
            ("203.0.113.7", true),
            ("2001:db8::7", true),
        ] {
            assert_eq!(is_worth_registering(address.parse().unwrap()), worth, "{address}");
        }
    }
}
