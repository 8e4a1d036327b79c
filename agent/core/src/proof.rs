//! What signatures can prove about a peer, and the only place where a [`VerifiedPeer`] is made.
//!
//! The chain is KMS root -> app key -> node key -> registration (dstack `kms/src/crypto.rs`; `key_claim.rs` for the second link, which
//! has two forms). It proves that *an instance of a trusted app* signed the registration, not which one: every instance can derive
//! every other's node key. The member key's signature beside it proves that the holder of the key of the record's member address
//! meant this registration. Neither proves that the token exists, is bound or is not revoked: only agreement about the contract's
//! state can (see [`crate::quorum`]).

use std::{net::SocketAddr, sync::Arc};

use alloy_primitives::{B256, keccak256};

use crate::{
    id::{Address, AppId, InstanceId, MemberKey, TlsKey, TokenId, WireguardKey},
    key_claim::{GuestApi, KeyClaim},
    registration::{Domain, Gateway, NetworkType, Proof, SignatureChain, SignedDomain, SignedGateway},
    registry::PeerRecord,
    signature::{InvalidSignature, PublicKey, recover},
};

/// What this node trusts. Never read from an RPC endpoint: the own GetKey chain and the operator's flags are the sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anchors {
    /// Addresses of trusted KMS root keys, the own one first.
    pub kms_roots: Vec<Address>,
    /// Trusted apps, the own one first.
    pub app_ids: Vec<AppId>,
}

/// Why a peer is not believed. Each variant names the part that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A public key of the chain is not a point of secp256k1.
    #[error("the {0} key is not a point of the curve")]
    KeyNotOnCurve(Link),
    /// A signature is malformed.
    #[error("the {0} signature is invalid: {1}")]
    Signature(Link, InvalidSignature),
    /// chain\[0\] was not made by the app key given, for neither claim about the node key.
    #[error("the app signature over the node key was made by {recovered}, not by the app key {app_key}")]
    AppSignature {
        /// Who signed, read as a claim of guest API v0.
        recovered: Address,
        /// Who should have.
        app_key: Address,
    },
    /// chain\[1\] was made by a root this node does not trust.
    #[error("KMS root {0} is not trusted here (`--trust-kms-root {0}` would)")]
    KmsRootNotTrusted(Address),
    /// The app is not trusted by this node.
    #[error("app id {0} is not trusted here (`--trust-app-id {0}` would)")]
    AppIdNotTrusted(AppId),
    /// The registration was not signed by the node key given, or for another chain or contract.
    #[error("the registration was signed by {recovered}, not by the node key {node_key}, or not for this contract")]
    NodeSignature {
        /// Who signed.
        recovered: Address,
        /// Who should have.
        node_key: Address,
    },
    /// The registration was not signed by the member key it names.
    #[error("the registration names the member address {named} and was signed by the member key of {recovered}")]
    MemberSignature {
        /// Who signed.
        recovered: Address,
        /// Who should have.
        named: Address,
    },
    /// The contract's record differs from the signed registration.
    #[error("the contract's record and the signed registration differ in {0}")]
    RecordDiffers(&'static str),
}

/// A link of the key chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Link {
    Node,
    Member,
    App,
    Kms,
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Member => "member",
            Self::App => "app",
            Self::Kms => "KMS",
        })
    }
}

/// A peer whose record equals a registration that its key chain proves. Made by [`verify`] and [`Proved::peer`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    record: Arc<PeerRecord>,
    member_key: MemberKey,
    /// The base domain that the record's place was signed for; `None` where an endpoint update has moved it since.
    signed_domain: Option<SignedDomain>,
    /// It was configured before, and nothing that is proved about it has changed since.
    admitted: bool,
}

impl VerifiedPeer {
    /// Its token.
    #[must_use]
    pub fn token(&self) -> TokenId {
        self.record.token
    }

    /// Its CVM.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.record.instance
    }

    /// Its member key: what its preshared keys are derived with.
    #[must_use]
    pub const fn member_key(&self) -> MemberKey {
        self.member_key
    }

    /// Its WireGuard public key: proved to be its own choice, not to be a usable one.
    #[must_use]
    pub fn wireguard_key(&self) -> WireguardKey {
        self.record.wireguard_key
    }

    /// The TLS key by which others know it, where it has one: proved to be its own choice.
    #[must_use]
    pub fn tls_key(&self) -> Option<TlsKey> {
        self.record.tls_key
    }

    /// How it is reached.
    #[must_use]
    pub fn network_type(&self) -> NetworkType {
        self.record.network_type
    }

    /// Where to send first. A hint: endpoint updates are not proved, WireGuard authenticates the peer that answers.
    #[must_use]
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.record.endpoint
    }

    /// Its path through the dstack gateway, as the contract lists it. A hint, like the endpoint.
    #[must_use]
    pub fn gateway(&self) -> Option<Gateway> {
        self.record.gateway
    }

    /// The same while these are the contract's base domains: `None` also where the domain was removed, or is another than the node
    /// signed.
    #[must_use]
    pub fn place(&self, base_domains: &[Option<String>]) -> Option<Gateway> {
        let gateway = self.gateway()?;
        let name = base_domains.get(usize::from(gateway.domain).checked_sub(1)?)?.as_deref()?;
        self.signed_domain.is_none_or(|signed| signed.may_be_called(name)).then_some(gateway)
    }

    /// The app its key chain was issued to.
    #[must_use]
    pub fn app_id(&self) -> AppId {
        self.record.app_id
    }

    /// The block of its registration.
    #[must_use]
    pub fn registered_block(&self) -> u64 {
        self.record.registered_block
    }

    /// The same peer, once it has been configured: from then on it needs no confirmations, whatever block a new registration
    /// or a reorg puts it into.
    #[must_use]
    pub fn admitted(mut self) -> Self {
        self.admitted = true;
        self
    }

    /// It was configured before.
    #[must_use]
    pub const fn is_admitted(&self) -> bool {
        self.admitted
    }
}

/// A registration whose signatures were all checked. Kept by the agent, so that a later read of the same registration costs no
/// cryptography and no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    proof: Arc<Proof>,
    member_key: MemberKey,
    kms_root: Address,
}

impl Proved {
    /// Checks every signature of a proof against the anchors and the domain.
    pub fn check(proof: impl Into<Arc<Proof>>, anchors: &Anchors, domain: &Domain) -> Result<Self, Refusal> {
        let proof = proof.into();
        let chain = &proof.chain;
        if !anchors.app_ids.contains(&chain.app_id) {
            return Err(Refusal::AppIdNotTrusted(chain.app_id));
        }
        let node_key = PublicKey::from_coordinates(&chain.node_key).ok_or(Refusal::KeyNotOnCurve(Link::Node))?;
        let app_key = PublicKey::from_coordinates(&chain.app_key).ok_or(Refusal::KeyNotOnCurve(Link::App))?;

        must_vouch(&app_key, &node_key, &chain.app_signature)?;
        let kms_root = recover(app_key_message(chain.app_id, &app_key), &chain.kms_signature)
            .map_err(|error| Refusal::Signature(Link::Kms, error))?
            .address();
        if !anchors.kms_roots.contains(&kms_root) {
            return Err(Refusal::KmsRootNotTrusted(kms_root));
        }
        let digest = signed_digest(&proof, &node_key, domain)?;
        let member =
            recover(digest, &proof.member_signature).map_err(|error| Refusal::Signature(Link::Member, error))?;
        let named = proof.registration.member_address;
        if member.address() != named {
            return Err(Refusal::MemberSignature { recovered: member.address(), named });
        }
        Ok(Self { member_key: MemberKey(member.compressed()), kms_root, proof })
    }

    /// The peer, when the contract's record equals what was signed: the name of a base domain apart, which [`VerifiedPeer::place`]
    /// compares. Endpoint and gateway may differ once an endpoint update has
    /// moved the endpoint epoch; before that they must be the signed ones. The key epoch is the signed one always: an old
    /// registration cannot be presented as a newer one.
    pub fn peer(&self, record: impl Into<Arc<PeerRecord>>) -> Result<VerifiedPeer, Refusal> {
        let record = record.into();
        self.fits(&record)?;
        let signed = self.proof.registration.gateway.filter(|_| record.endpoint_epoch == 0);
        let signed_domain = signed.map(|gateway| gateway.domain);
        Ok(VerifiedPeer { record, member_key: self.member_key, signed_domain, admitted: false })
    }

    /// Whether there is such a peer.
    pub(crate) fn fits(&self, record: &PeerRecord) -> Result<(), Refusal> {
        let signed = &self.proof.registration;
        let moved_on = record.endpoint_epoch > 0;
        let fits = [
            ("token id", record.token == signed.token),
            ("instance id", record.instance == signed.instance),
            ("WireGuard key", record.wireguard_key == signed.wireguard_key),
            ("TLS key", record.tls_key == signed.tls_key),
            ("network type", record.network_type == signed.network_type),
            ("key epoch", record.key_epoch == signed.key_epoch),
            ("endpoint", moved_on || record.endpoint == signed.endpoint),
            ("gateway", moved_on || is_signed(record.gateway, signed.gateway)),
            ("member address", record.member_address == signed.member_address),
            ("KMS root", record.kms_root == self.kms_root),
            ("app id", record.app_id == self.proof.chain.app_id),
        ];
        fits.iter().find(|(_, fits)| !fits).map_or(Ok(()), |(part, _)| Err(Refusal::RecordDiffers(part)))
    }

    /// What was checked, to be kept for the next start.
    #[must_use]
    pub const fn proof(&self) -> &Arc<Proof> {
        &self.proof
    }
}

/// Checks the whole chain of one peer: signatures, anchors, and that the contract's record equals what was signed.
pub fn verify(record: &PeerRecord, proof: &Proof, anchors: &Anchors, domain: &Domain) -> Result<VerifiedPeer, Refusal> {
    Proved::check(proof.clone(), anchors, domain)?.peer(record.clone())
}

/// What a node learns from its own `GetKey` answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnChain {
    /// The chain as the contract takes it.
    pub chain: SignatureChain,
    /// Address of the node key.
    pub node_address: Address,
    /// The KMS root this node was given its keys by: its first anchor.
    pub kms_root: Address,
}

/// Reads an own `GetKey` answer: `node_key` is the compressed public key of the key it gave, `claim` what the call had the app key say,
/// the signatures are `signature_chain[0]` and `[1]`.
///
/// The only error is a malformed input: any well-formed pair recovers to *some* app key and root. The caller compares
/// the root with what the operator expects, where they say.
pub fn recover_own_chain(
    app_id: AppId,
    claim: KeyClaim<'_>,
    node_key: &[u8; 33],
    app_signature: &[u8; 65],
    kms_signature: &[u8; 65],
) -> Result<OwnChain, Refusal> {
    let node_key = PublicKey::from_compressed(node_key).ok_or(Refusal::KeyNotOnCurve(Link::Node))?;
    let app_key =
        recover(claim.digest(&node_key), app_signature).map_err(|error| Refusal::Signature(Link::App, error))?;
    let kms_root = recover(app_key_message(app_id, &app_key), kms_signature)
        .map_err(|error| Refusal::Signature(Link::Kms, error))?;
    let chain = SignatureChain {
        node_key: node_key.coordinates(),
        app_key: app_key.coordinates(),
        app_signature: *app_signature,
        kms_signature: *kms_signature,
        app_id,
    };
    Ok(OwnChain { chain, node_address: node_key.address(), kms_root: kms_root.address() })
}

/// The app key made this signature over one of the two claims about the node key: each has a digest of its own, and a key's signature
/// is valid for one digest alone.
fn must_vouch(app_key: &PublicKey, node_key: &PublicKey, signature: &[u8; 65]) -> Result<(), Refusal> {
    let signer = |api| {
        let digest = KeyClaim::of_node_key(api).digest(node_key);
        recover(digest, signature).map_err(|error| Refusal::Signature(Link::App, error))
    };
    let recovered = signer(GuestApi::V0)?;
    if recovered == *app_key || signer(GuestApi::V1)? == *app_key {
        return Ok(());
    }
    Err(Refusal::AppSignature { recovered: recovered.address(), app_key: app_key.address() })
}

/// What the node key signed of this registration: its digest, or the former one, which contracts without TLS keys took.
fn signed_digest(proof: &Proof, node_key: &PublicKey, domain: &Domain) -> Result<B256, Refusal> {
    let signer = |digest| recover(digest, &proof.node_signature).map_err(|error| Refusal::Signature(Link::Node, error));
    let digest = proof.registration.digest(domain);
    let recovered = signer(digest)?;
    if recovered == *node_key {
        return Ok(digest);
    }
    match proof.registration.former_digest(domain) {
        Some(former) if signer(former)? == *node_key => Ok(former),
        Some(_) | None => Err(Refusal::NodeSignature { recovered: recovered.address(), node_key: node_key.address() }),
    }
}

/// Whether the contract lists the place that was signed, as far as that says its index.
fn is_signed(listed: Option<Gateway>, signed: Option<SignedGateway>) -> bool {
    match (listed, signed) {
        (None, None) => true,
        (Some(listed), Some(signed)) => signed.may_be(listed),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// What the KMS root signs: `dstack-kms-issued:` ‖ app id ‖ compressed key.
fn app_key_message(app_id: AppId, app_key: &PublicKey) -> B256 {
    keccak256([b"dstack-kms-issued:".as_slice(), &app_id.0, &app_key.compressed()].concat())
}
