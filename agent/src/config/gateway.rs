//! The flags that say how paths to peers are made and found.

use std::{fmt, net::SocketAddr, num::NonZeroU16, str::FromStr, time::Duration};

use clap::Args;
use mesh_paths::stream::Limits;

use super::{DEFAULT_GATEWAY_PORT, flags::duration};

/// The gateway ends a stream at 5 hours: later than this there is no time left to replace it before.
const REDIAL_AT_LAST: Duration = Duration::from_secs(4 * 3600 + 2700);

/// Flags of a device that has more than one path to a peer.
#[derive(Debug, Clone, Args)]
pub struct GatewayFlags {
    /// Where to listen for streams from the gateway, with `--gateway-domain` alone: peers call the port. Default: 0.0.0.0:51822.
    #[arg(long, value_name = "IP:PORT")]
    pub gateway_listen: Option<SocketAddr>,
    /// Where every gateway is, instead of what DNS says of its name.
    #[arg(long, value_name = "IP:PORT")]
    pub gateway_address: Option<SocketAddr>,
    /// A stream through the gateway is replaced before it gets as old as this, at most 4h45m, because the gateway ends it at 5 h.
    /// Default: 4h30m.
    #[arg(long, value_name = "DURATION", value_parser = redial_after)]
    pub gateway_redial_after: Option<Duration>,
    /// A STUN server, which says as what address this node is seen from outside: how direct UDP is found where both ends are behind
    /// a NAT. Repeatable.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub stun: Vec<StunServer>,
}

impl GatewayFlags {
    /// Every flag, and whether it was given.
    pub(super) const fn given(&self) -> [(&'static str, bool); 4] {
        [
            ("--gateway-listen", self.gateway_listen.is_some()),
            ("--gateway-address", self.gateway_address.is_some()),
            ("--gateway-redial-after", self.gateway_redial_after.is_some()),
            ("--stun", !self.stun.is_empty()),
        ]
    }

    /// With the defaults filled in.
    pub(super) fn settings(self) -> GatewaySettings {
        let any = || SocketAddr::from(([0, 0, 0, 0], DEFAULT_GATEWAY_PORT.get()));
        let defaults = Limits::default();
        GatewaySettings {
            listen: self.gateway_listen.unwrap_or_else(any),
            address: self.gateway_address,
            redial_after: self.gateway_redial_after.unwrap_or(defaults.redial_after),
            stun: self.stun,
        }
    }
}

/// What is decided about paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Where to listen for streams, if this node has a place.
    pub listen: SocketAddr,
    /// Where every gateway is.
    pub address: Option<SocketAddr>,
    /// A stream's age at which it is replaced, at the latest.
    pub redial_after: Duration,
    /// STUN servers.
    pub stun: Vec<StunServer>,
}

impl GatewaySettings {
    /// The port at which peers connect; `None` where it is 0, which accepts no connections.
    pub(super) const fn port(&self) -> Option<NonZeroU16> {
        NonZeroU16::new(self.listen.port())
    }
}

/// `HOST:PORT`, to be resolved again whenever it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StunServer(String);

impl FromStr for StunServer {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected HOST:PORT (IPv6 in brackets), as in `stun.example.org:3478`";
        if text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
            return Ok(Self(text.to_owned()));
        }
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let is_name = (1..=253).contains(&host.len())
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if is_name && port.parse::<NonZeroU16>().is_ok() { Ok(Self(text.to_owned())) } else { Err(EXPECTED) }
    }
}

impl fmt::Display for StunServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn redial_after(text: &str) -> Result<Duration, String> {
    let after = duration(text)?;
    if after <= REDIAL_AT_LAST {
        Ok(after)
    } else {
        Err("expected at most 4h45m (17100s): the gateway ends a stream at 5 h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        gateway: GatewayFlags,
    }

    fn parse(arguments: &[&str]) -> Result<GatewaySettings, String> {
        let cli = Cli::try_parse_from(["test"].iter().chain(arguments));
        cli.map(|cli| cli.gateway.settings()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_given_is_the_streams_own_choice() {
        let settings = parse(&[]).unwrap();
        assert_eq!((settings.listen, settings.address), ("0.0.0.0:51822".parse().unwrap(), None));
        assert_eq!((settings.redial_after, settings.stun), (Limits::default().redial_after, Vec::new()));
        assert!(Limits::default().redial_after <= REDIAL_AT_LAST);
    }

    #[test]
    fn a_stream_is_replaced_before_the_gateway_ends_it() {
        assert_eq!(parse(&["--gateway-redial-after", "12s"]).unwrap().redial_after, Duration::from_secs(12));
        for late in ["5h", "17101", "1d"] {
            let error = parse(&["--gateway-redial-after", late]).unwrap_err();
            assert!(error.contains("4h45m"), "{error}");
        }
    }

    #[test]
    fn servers_have_a_port() {
        let good = ["stun.example.org:3478", "192.0.2.1:3478", "[2001:db8::1]:3478", "localhost:1"];
        let settings = parse(&["--stun", &good.join(",")]).unwrap();
        assert!(settings.stun.iter().map(ToString::to_string).eq(good));
        for bad in ["stun.example.org", "stun:0", ":3478", "a b:1", "2001:db8::1:3478", "x:70000"] {
            let error = parse(&["--stun", bad]).unwrap_err();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }
}
