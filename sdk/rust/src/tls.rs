//! TLS with members of the cluster, each known by the key that the contract has of it: feature `tls`.
//!
//! What counts of a certificate is its public key, whose possession the handshake's signature proves. Authorities, names and dates mean
//! nothing; TLS 1.3 alone is spoken, and nothing is resumed, so that each connection proves both keys afresh.

mod config;
mod follow;
mod stream;
mod verifier;

use std::{fmt, sync::Arc, time::Duration};

use mesh_core::id::TokenId;
use rustls::{
    ClientConfig,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use tokio::{net::TcpStream, sync::watch, task::AbortHandle, time::timeout};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

pub(crate) use self::config::{SCHEMA, TlsConfig};
pub use self::{config::TlsMember, stream::MemberStream};
use self::{follow::View, verifier::OneMember};
use crate::{
    agent::Agent,
    error::{Advice, Error},
};

/// How long connecting and the handshake may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The members of the moment. It follows the agent until it is dropped; then no member is one, for what was made by it too.
pub struct TlsMembers {
    views: watch::Receiver<Arc<View>>,
    follower: AbortHandle,
}

impl TlsMembers {
    pub(crate) async fn follow(agent: Agent, within: Duration) -> Result<Self, Error> {
        let (views, follower) = follow::start(agent, within).await?;
        Ok(Self { views, follower })
    }

    /// Those of the moment, ascending by token, without this node; none where the agent's last list may no longer be believed.
    #[must_use]
    pub fn members(&self) -> Vec<TlsMember> {
        self.view().config().map(|config| config.members.clone()).unwrap_or_default()
    }

    /// By its name, such as `node-7`, or by its token in digits.
    ///
    /// # Errors
    /// [`Error::NotAMember`].
    pub fn member(&self, name: &str) -> Result<TlsMember, Error> {
        let view = self.view();
        let is_meant = |member: &&TlsMember| {
            let token = member.token_id.to_string();
            member.name == name || token == name || name.strip_prefix("node-") == Some(&token)
        };
        view.config().and_then(|config| config.members.iter().find(is_meant)).cloned().ok_or_else(|| no_member(name))
    }

    /// The settings for connections to that member alone, with this node's own key as the proof of who calls: for `tokio-rustls`, hyper
    /// and everything else that takes them. Connect to the member's `host` and `port`, with `host` as the server name: its gateway finds
    /// it by that. The member's key is looked up at each handshake; this node's own is read now, so make them again where connections
    /// are refused. What is connected by them does not end when the member is revoked: [`Self::until_revoked`] says when.
    ///
    /// Reads a small file.
    ///
    /// # Errors
    /// [`Error::NotAMember`]; [`Error::NotPermitted`] where this process may not read this node's private key.
    pub fn client_config(&self, token: TokenId) -> Result<ClientConfig, Error> {
        let view = self.view();
        let Some(config) = view.config().filter(|config| config.pin(token).is_some()) else {
            return Err(no_member(&format!("node-{token}")));
        };
        let (certificate, key) = own_key(config)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(OneMember { token, views: self.views.clone(), provider: Arc::clone(&provider) });
        let invalid = |error: rustls::Error| {
            Error::WrongAgent(Advice::new(format!("this node's TLS key: {error}"), VERSION_HINT))
        };
        let mut settings = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(invalid)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![certificate], key)
            .map_err(invalid)?;
        settings.resumption = Resumption::disabled();
        Ok(settings)
    }

    /// A connection to that member. It fails from the moment on at which the member is revoked or has another key. Whether the member
    /// lets this node in shows at the first read.
    ///
    /// # Errors
    /// As [`Self::client_config`]; [`Error::NotPermitted`] where the member takes no connections; [`Error::Refused`] where it cannot be
    /// connected to, or something else answers.
    pub async fn connect(&self, token: TokenId) -> Result<MemberStream, Error> {
        self.connect_to(token, None).await
    }

    /// As [`Self::connect`], to another front of that member than the one in its URL: its port, `6379` of `p2p-agent --front 6379=…`.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_front(&self, token: TokenId, front: u16) -> Result<MemberStream, Error> {
        self.connect_to(token, Some(front)).await
    }

    async fn connect_to(&self, token: TokenId, front: Option<u16>) -> Result<MemberStream, Error> {
        let view = self.view();
        let member =
            view.config().and_then(|config| config.find(token)).ok_or_else(|| no_member(&format!("node-{token}")))?;
        let host = front.map_or_else(|| member.host.clone(), |front| member.host_of(front));
        let (Some(host), Some(port)) = (host, member.port) else {
            let hint = "let its agent have one: `p2p-agent --front` and a gateway domain";
            return Err(Error::NotPermitted(Advice::new(
                format!("{} has no place where TLS is taken", member.name),
                hint,
            )));
        };
        let connector = TlsConnector::from(Arc::new(self.client_config(token)?));
        let refused = |cause: &dyn fmt::Display| {
            let message = format!("no connection to {} at {host}:{port}: {cause}", member.name);
            Error::Refused(Advice::new(message, "`meshctl peers` on both nodes says more"))
        };
        let name = ServerName::try_from(host.clone()).map_err(|error| refused(&error))?;
        let connect = async {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            tcp.set_nodelay(true)?;
            connector.connect(name, tcp).await
        };
        let tls = timeout(CONNECT_WITHIN, connect)
            .await
            .map_err(|error| refused(&error))?
            .map_err(|error| refused(&error))?;
        Ok(MemberStream::new(tls, token, member.spki_sha256, &self.views))
    }

    /// Waits until that member is revoked, has another key, or may be believed no longer; at once where it is none now.
    pub async fn until_revoked(&self, token: TokenId) {
        let pin = self.view().config().and_then(|config| config.pin(token));
        if let Some(pin) = pin {
            follow::until_changed(self.views.clone(), token, pin).await;
        }
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }
}

impl Drop for TlsMembers {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl fmt::Debug for TlsMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsMembers").field("members", &self.members()).finish_non_exhaustive()
    }
}

const VERSION_HINT: &str = "use a dstack-p2p of the agent's version";

fn own_key(config: &TlsConfig) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
    let not_permitted = |message: String, hint: &str| Error::NotPermitted(Advice::new(message, hint));
    let file = config.own.private_key_file.as_deref().ok_or_else(|| {
        not_permitted("the agent could write no file with this node's TLS key".to_owned(), "its log says why")
    })?;
    let pem = std::fs::read(file).map(Zeroizing::new).map_err(|error| {
        let hint = "run this process as the agent's user, or in its `--api-group`";
        not_permitted(format!("this node's TLS key cannot be read at `{}`: {error}", file.display()), hint)
    })?;
    // The words say nothing of its bytes.
    let invalid = |error: rustls::pki_types::pem::Error| {
        Error::WrongAgent(Advice::new(format!("this node's TLS key is not PEM: {error}"), VERSION_HINT))
    };
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(invalid)?;
    Ok((CertificateDer::from_pem_slice(config.own.certificate.as_bytes()).map_err(invalid)?, key))
}

fn no_member(name: &str) -> Error {
    let message = format!("{name:?} is no member with a TLS key now");
    Error::NotAMember(Advice::new(message, "`TlsMembers::members` lists those that are"))
}
