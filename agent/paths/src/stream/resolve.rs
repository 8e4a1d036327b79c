//! Names to addresses, by this machine's own resolver: outside the tunnel, and not for ever.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{ToSocketAddrs, lookup_host},
    time::timeout,
};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Where it is; what the resolver says when it does not know, or does not answer.
pub(crate) async fn resolve(name: impl ToSocketAddrs) -> Result<Vec<SocketAddr>, String> {
    match timeout(LIMIT, lookup_host(name)).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_resolver_and_what_has_no_port_is_refused() {
        assert_eq!(resolve("192.0.2.1:443").await, Ok(vec!["192.0.2.1:443".parse().unwrap()]));
        assert_eq!(resolve(("192.0.2.1".to_owned(), 443)).await, Ok(vec!["192.0.2.1:443".parse().unwrap()]));
        assert!(resolve("192.0.2.1").await.is_err());
    }
}
