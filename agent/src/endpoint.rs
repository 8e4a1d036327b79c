//! Which address of this machine to register: the one from which it talks to its RPC endpoint.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use tokio::{net::lookup_host, time::timeout};

use crate::{
    chain::RpcUrl,
    config::{Config, EndpointChoice},
};

/// How long a name may take to resolve.
const LOOKUP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// The endpoint to register, `None` for none. Sends nothing: connecting a UDP socket only asks the routing table.
pub async fn detect(config: &Config) -> Option<SocketAddr> {
    match config.endpoint {
        EndpointChoice::Fixed(endpoint) => Some(endpoint),
        EndpointChoice::None => None,
        EndpointChoice::Auto => {
            for url in &config.rpc_urls {
                if let Some(address) = local_address_towards(url).await {
                    return Some(SocketAddr::new(address, config.listen_port));
                }
            }
            tracing::info!(
                "no address of this machine is worth registering: peers must be reached from here (`--endpoint IP:PORT` sets one)"
            );
            None
        }
    }
}

async fn local_address_towards(url: &RpcUrl) -> Option<IpAddr> {
    let (host, port) = url.host_and_port()?;
    let remotes = timeout(LOOKUP_TIMEOUT, lookup_host((host.as_str(), port))).await.ok()?.ok()?;
    remotes.into_iter().find_map(source_address)
}

fn source_address(remote: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if remote.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(remote).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_worth_registering() {
        assert_eq!(source_address("127.0.0.1:8545".parse().unwrap()), None);
    }
}
