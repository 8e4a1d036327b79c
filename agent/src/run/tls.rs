//! TLS with members: the fronts and forwards of this node, and who may talk by them.

mod dial;
mod key_file;
mod members;

use std::{
    convert::Infallible,
    future::pending,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::anyhow;
use mesh_core::{
    agent::Adjustments,
    status::{AgentStatus, FrontStatus, ProxyStatus},
};
use mesh_front::{Counts, Dialer, Front, FrontRule, Identity, Limits, Members};
use mesh_proxy::{Counters, Listener, SocketMode};
use tokio::{sync::watch, task::JoinSet};
use x509_cert::der::pem::{LineEnding, encode_string};
use zeroize::Zeroizing;

pub(super) use members::follow;

use self::{dial::MemberDial, key_file::KeyFile};
use crate::{
    api::{Group, TlsSource},
    config::Config,
    identity::tls::TlsSecret,
};

/// The certificate has to have a name, and none that would mean anything.
const CERTIFICATE_NAME: &str = "member.p2p.internal";

/// Tasks that run for ever.
type Background = JoinSet<io::Result<Infallible>>;

/// The fronts, proxy and forwards of a node, with their ports bound and nothing served yet: a port that is taken ends the start before
/// anything is told to others.
pub(super) struct Ports {
    front: Front,
    listeners: Vec<Listener>,
}

/// What runs, as status asks for it.
pub struct Running {
    fronts: Vec<(FrontRule, Arc<Counts>)>,
    proxy: Option<Arc<Counters>>,
}

impl Ports {
    /// Binds them.
    ///
    /// # Errors
    /// Which port cannot be had, and why.
    pub(super) fn bind(config: &Config) -> anyhow::Result<Self> {
        let front = Front::bind(&config.tls.fronts)?;
        let asked = &config.applications;
        let proxies = asked.proxy.iter().map(|listen| Listener::proxy(listen, SocketMode::Owner));
        let forwards = asked.forward.iter().map(|forward| Listener::forward(forward, SocketMode::Owner));
        let listeners = proxies.chain(forwards).collect::<Result<_, _>>()?;
        Ok(Self { front, listeners })
    }

    /// Serves them from now on, with this key, to these members. What applications need that do TLS themselves comes with it.
    ///
    /// # Errors
    /// When no certificate can be made for the key.
    pub(super) fn serve(
        self,
        config: &Config,
        secret: &TlsSecret,
        members: watch::Receiver<Arc<Members>>,
        adjustments: watch::Receiver<Adjustments>,
        background: &mut Background,
    ) -> anyhow::Result<(Running, TlsSource)> {
        let group = config.api_group.as_ref().map(Group::resolve).transpose()?;
        let pkcs8 = secret.to_pkcs8();
        // No name in it means anything.
        let certificate = secret.certificate(&[CERTIFICATE_NAME])?;
        let own = Identity::new(certificate.clone(), &pkcs8)?;
        let running = Running { fronts: self.front.counts(), proxy: (!self.listeners.is_empty()).then(Arc::default) };
        if !running.fronts.is_empty() {
            let (own, members) = (own.clone(), members.clone());
            background.spawn(async move { self.front.serve(&own, members, Limits::default()).await });
        }
        if let Some(counters) = running.proxy.clone() {
            let dial =
                MemberDial::new(Dialer::new(own.clone(), members.clone(), config.gateway.address, Limits::default()));
            let serve = mesh_proxy::serve(self.listeners, dial, mesh_proxy::Limits::default(), counters, pending());
            background.spawn(async move {
                serve.await;
                Err(io::Error::other("the proxy ended"))
            });
        }
        let source = TlsSource {
            members,
            adjustments,
            key: own.spki(),
            certificate: pem("CERTIFICATE", &certificate)?.as_str().to_owned(),
            private_key_file: keep_key_file(&config.tls.key_file, group, &pem("PRIVATE KEY", &pkcs8)?, background),
        };
        Ok((running, source))
    }
}

/// Writes the private key for applications; the file is there as long as the background tasks are.
fn keep_key_file(path: &Path, group: Option<u32>, pem: &str, background: &mut Background) -> Option<PathBuf> {
    match KeyFile::write(path, pem, group) {
        Ok(file) => {
            background.spawn(async move {
                let _file = file;
                pending().await
            });
            Some(path.to_owned())
        }
        Err(error) => {
            tracing::warn!(
                file = %path.display(), %error,
                "applications cannot have this node's TLS key: its file cannot be written"
            );
            None
        }
    }
}

/// RFC 7468. What was encoded wipes itself, as one of the two kinds is a secret.
fn pem(label: &'static str, der: &[u8]) -> anyhow::Result<Zeroizing<String>> {
    let text = encode_string(label, LineEnding::LF, der).map_err(|error| anyhow!("{label} as PEM: {error}"))?;
    Ok(Zeroizing::new(text))
}

impl Running {
    /// Adds what runs here to a status.
    pub fn add_to(&self, status: &mut AgentStatus) {
        status.fronts = self.fronts();
        status.proxy = self.proxy();
    }

    fn fronts(&self) -> Vec<FrontStatus> {
        let of = |(rule, counts): &(FrontRule, Arc<Counts>)| {
            let now = counts.now();
            FrontStatus {
                listen: rule.listen().to_string(),
                target: rule.target().to_string(),
                open: now.open,
                accepted: now.accepted,
                refused: now.failed_handshakes + now.slow_handshakes + now.not_members + now.too_many,
                cut_off: now.cut_off,
                target_failed: now.target_failed,
                is_target_down: now.is_target_down,
            }
        };
        self.fronts.iter().map(of).collect()
    }

    fn proxy(&self) -> Option<ProxyStatus> {
        let seen = self.proxy.as_ref()?.seen();
        let refused = seen.refused.iter().map(|(_, count)| count).sum();
        Some(ProxyStatus { open: seen.open as u64, accepted: seen.accepted, refused })
    }
}
