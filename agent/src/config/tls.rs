//! How a node without a tunnel is reached by TLS that proves the member.

use std::{num::NonZeroU16, path::PathBuf};

use clap::Args;
use mesh_front::FrontRule;

/// Flags of a node without a tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TlsFlags {
    /// With `--mode tls`: takes TLS from members at a port of this machine, and passes what is inside to an application, as in
    /// 8443=127.0.0.1:8080 or 8443=unix:/run/app.sock; repeatable. Exactly the members of the moment are let in, by the key that the
    /// contract has for each. The first one's port is that of this node's URL. Default: none, and the application ends TLS itself.
    #[arg(long, value_name = "[ADDR:]PORT=TARGET")]
    pub front: Vec<FrontRule>,
}

impl TlsFlags {
    /// The port that the node's URL names, where a front decides it.
    pub(super) fn port(&self) -> Option<NonZeroU16> {
        self.front.first().and_then(|front| NonZeroU16::new(front.listen().port()))
    }

    /// The first port that two fronts would take.
    pub(super) fn fronted_twice(&self) -> Option<u16> {
        let ports = || self.front.iter().map(|front| front.listen().port());
        ports().enumerate().find_map(|(index, port)| ports().take(index).any(|other| other == port).then_some(port))
    }
}

/// What is decided about TLS between members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Where members are let in, the one of the URL first.
    pub fronts: Vec<FrontRule>,
    /// Where applications find this node's private key.
    pub key_file: PathBuf,
}

impl TlsSettings {
    /// The ports of this machine that are listened at.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.fronts.iter().map(|front| front.listen().port())
    }
}
