//! The life of one connection from outside: handshake, place, application, bytes, end.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use rustls::{CertificateError, Error, ServerConfig};
use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsStream, server};

use crate::{
    admission::Connections,
    counts::{Counts, Open, count},
    identity::Identity,
    limits::Limits,
    members::{CutOff, Members},
    relay::Local,
    rule::Target,
    socket::Socket,
    spki::SpkiSha256,
    stream::MemberStream,
    tls,
};

/// What every connection of the fronts meets.
pub(crate) struct Gate {
    config: Arc<ServerConfig>,
    members: watch::Receiver<Arc<Members>>,
    limits: Limits,
    connections: Arc<Connections>,
}

/// A connection of anyone.
pub(crate) struct Accepted {
    pub(crate) tcp: TcpStream,
    pub(crate) target: Target,
    pub(crate) counts: Arc<Counts>,
}

impl Gate {
    pub(crate) fn new(
        identity: &Identity,
        members: watch::Receiver<Arc<Members>>,
        limits: Limits,
        connections: Arc<Connections>,
    ) -> Result<Self, Error> {
        let config = tls::server(identity, members.clone())?;
        Ok(Self { config: Arc::new(config), members, limits, connections })
    }

    /// Sees one connection through to its end. It gives up its handshake when `gives_way` says so.
    pub(crate) async fn pass(self: Arc<Self>, accepted: Accepted, gives_way: oneshot::Receiver<()>) {
        let Accepted { tcp, target, counts } = accepted;
        let Some(tls) = self.handshake(tcp, &counts, gives_way).await else { return };
        // No client is let in without a certificate that could be read.
        let Some(key) = key_of(&tls) else { return count(&counts.failed_handshakes) };
        let judged = self.members.borrow().with_key(key, Instant::now());
        let token = match judged {
            Ok(token) => token,
            Err(why) => {
                tracing::debug!(%key, %why, "a caller is not let in");
                return count(&counts.not_members);
            }
        };
        let Some(_seat) = self.connections.enter(token) else {
            tracing::debug!(%token, "a caller is not let in: too many connections");
            return count(&counts.too_many);
        };
        let (cut, is_cut) = oneshot::channel();
        let on_cut = |why: CutOff| {
            // The connection may have ended in this moment.
            let _ = cut.send(why);
        };
        let mut member = MemberStream::new(TlsStream::Server(tls), token, key, self.members.clone(), on_cut);
        let mut local = match Local::connect(&target, self.limits.connect).await {
            Ok(local) => local,
            Err(error) => {
                if !counts.is_target_down.swap(true, Relaxed) {
                    tracing::warn!(%target, %error, "the application behind a front accepts no connection");
                }
                count(&counts.target_failed);
                return member.reset();
            }
        };
        counts.is_target_down.store(false, Relaxed);
        let _open = Open::new(&counts);
        tokio::select! {
            biased;
            Ok(why) = is_cut => {
                tracing::info!(%token, %why, "a connection of a member is cut off");
                count(&counts.cut_off);
                local.reset();
            }
            relayed = local.relay(&mut member) => if let Err(error) = relayed {
                tracing::debug!(%token, %error, "a connection of a member broke");
                member.reset();
                local.reset();
            }
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        counts: &Counts,
        gives_way: oneshot::Receiver<()>,
    ) -> Option<server::TlsStream<Socket>> {
        let socket = Socket::new(tcp, self.limits.stall).ok()?;
        let accept = timeout(self.limits.handshake, TlsAcceptor::from(Arc::clone(&self.config)).accept(socket));
        let accepted = tokio::select! {
            accepted = accept => accepted,
            Ok(()) = gives_way => { count(&counts.slow_handshakes); return None }
        };
        match accepted {
            Ok(Ok(tls)) => return Some(tls),
            Ok(Err(error)) if is_no_member(&error) => count(&counts.not_members),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a handshake failed");
                count(&counts.failed_handshakes);
            }
            Err(_) => count(&counts.slow_handshakes),
        }
        None
    }
}

fn key_of(tls: &server::TlsStream<Socket>) -> Option<SpkiSha256> {
    SpkiSha256::of_certificate(tls.get_ref().1.peer_certificates()?.first()?).ok()
}

/// What the check of the client's key says when it is that of no member.
fn is_no_member(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)))
}
