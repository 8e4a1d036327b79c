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
    Some(socket.local_addr().ok()?.ip()).filter(|address| is_worth_registering(*address))
}

/// Not an address that every machine of a kind has: QEMU's user network gives 10.0.2.15 to each guest, docker 172.17.0.x to
/// each container. Other private addresses may be shared with peers.
fn is_worth_registering(address: IpAddr) -> bool {
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

    #[test]
    fn loopback_is_not_worth_registering() {
        assert_eq!(source_address("127.0.0.1:8545".parse().unwrap()), None);
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
