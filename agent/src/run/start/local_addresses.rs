//! The addresses of this machine, followed as they change.

use std::{convert::Infallible, future::pending, net::SocketAddr};

use tokio::sync::watch;

use crate::{device::link::Netlink, run::endpoint::is_worth_registering};

/// Finds them and follows them, for ever. `others` are interfaces whose addresses lead to no peer: those of tunnels.
pub(super) async fn follow(
    netlink: Netlink,
    others: Vec<String>,
    listen_port: u16,
    found: watch::Sender<Vec<SocketAddr>>,
    mut machine_changed: watch::Receiver<()>,
) -> Infallible {
    loop {
        match netlink.host_addresses(&others).await {
            Ok(addresses) => {
                let worth = addresses.into_iter().filter(|address| is_worth_registering(*address));
                let now: Vec<_> = worth.map(|address| SocketAddr::new(address, listen_port)).collect();
                found.send_if_modified(|known| {
                    *known != now && {
                        *known = now;
                        true
                    }
                });
            }
            // What was known stands; the next change is another chance.
            Err(error) => tracing::debug!(%error, "cannot read this machine's addresses"),
        }
        if machine_changed.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}
