//! What members tell each other inside the tunnel: that the contract has changed, and who left. Both are datagrams of one fixed form
//! each, big endian, read as strictly as they are written: every datagram that is read is written again in the same bytes.
//!
//! ```text
//! "MESH" 1 1  teller u32 │ chain u64 │ contract [20] │ epoch u64 │ block u64 │ hash [32] │ n u8 │ n × (token u32, key epoch u32) │ r ‖ s ‖ v
//! "MESH" 1 2  epoch u64
//! ```

use alloy_primitives::{B256, keccak256};

use crate::{
    id::{Address, MemberKey, TokenId},
    registration::Domain,
    signature::{InvalidSignature, recover},
};

/// UDP port of a node's mesh address, from which news is sent and to which it goes. Port 51823 beside it is that of the devices' probes.
pub const PORT: u16 = 51824;
/// No datagram is longer: it fits into every packet of a tunnel.
pub const MAX_DATAGRAM: usize = 1200;
/// Removals in one datagram, at most.
pub const MAX_REMOVALS: usize = 64;

/// What is signed begins with this: nothing else that a member key signs does.
const DOMAIN_TEXT: &[u8] = b"dstack-mesh-news-v1";
const MAGIC: [u8; 5] = *b"MESH\x01";
const NEWS: u8 = 1;
const ASK: u8 = 2;
const SIGNATURE: usize = 65;

/// A registration that no longer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removal {
    /// Whose.
    pub token: TokenId,
    /// The highest key epoch of that token with which it held and holds no more.
    pub key_epoch: u32,
}

/// What a member read of the contract itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The member's token.
    pub teller: TokenId,
    /// Chain and contract.
    pub domain: Domain,
    /// The contract's epoch.
    pub epoch: u64,
    /// Height of the block of the read.
    pub block: u64,
    /// Hash of that block.
    pub hash: B256,
    /// Who left lately, ascending by token, [`MAX_REMOVALS`] at most.
    pub removals: Vec<Removal>,
}

/// News with a signature that is not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNews {
    news: News,
    signature: [u8; SIGNATURE],
}

/// News that was signed by the member key of its teller. Made by [`SignedNews::verify`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedNews(News);

/// A node that cannot read the contract asks what has changed since this epoch. Unsigned: the tunnel proves who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The epoch of what it believes.
    pub epoch: u64,
}

/// What a node sends, before its shell signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// To be signed by the member key.
    News(News),
    /// As it is.
    Ask(Ask),
}

/// Everything that comes to [`PORT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datagram {
    /// The contract has changed.
    News(SignedNews),
    /// What has changed?
    Ask(Ask),
}

/// Why bytes are no datagram of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not begin as ours do.
    #[error("it is of another protocol or version")]
    Magic,
    /// It is of no kind there is.
    #[error("kind {0} is unknown")]
    Kind(u8),
    /// Bytes are missing, or too many.
    #[error("its length is not that of its content")]
    Length,
    /// More than [`MAX_REMOVALS`].
    #[error("it names {0} removals")]
    TooMany(u8),
    /// A token is zero.
    #[error("a token is zero")]
    Token,
    /// The removals do not ascend by token.
    #[error("its removals do not ascend by token")]
    Order,
}

/// Why news is not the teller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// No key made this signature.
    #[error("its signature is invalid: {0}")]
    Signature(#[from] InvalidSignature),
    /// Another key did.
    #[error("{0} signed it, and not the member key of the teller")]
    Signer(Address),
}

impl News {
    /// What the member key signs.
    #[must_use]
    pub fn digest(&self) -> B256 {
        keccak256([DOMAIN_TEXT, &self.content()].concat())
    }

    /// With the signature of [`News::digest`], r ‖ s ‖ v.
    #[must_use]
    pub const fn signed(self, signature: [u8; SIGNATURE]) -> SignedNews {
        SignedNews { news: self, signature }
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX_DATAGRAM);
        bytes.extend(self.teller.get().to_be_bytes());
        bytes.extend(self.domain.chain_id.to_be_bytes());
        bytes.extend(self.domain.contract.as_slice());
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(self.block.to_be_bytes());
        bytes.extend(self.hash.as_slice());
        let removals = &self.removals[..self.removals.len().min(MAX_REMOVALS)];
        bytes.push(u8::try_from(removals.len()).unwrap_or(u8::MAX));
        for Removal { token, key_epoch } in removals {
            bytes.extend(token.get().to_be_bytes());
            bytes.extend(key_epoch.to_be_bytes());
        }
        bytes
    }
}

impl SignedNews {
    /// What it says, whether or not the teller does.
    #[must_use]
    pub const fn unverified(&self) -> &News {
        &self.news
    }

    /// Checks that the holder of this key says so.
    pub fn verify(self, teller: MemberKey) -> Result<VerifiedNews, Forged> {
        let signer = recover(self.news.digest(), &self.signature)?;
        if signer.compressed() != teller.0 {
            return Err(Forged::Signer(signer.address()));
        }
        Ok(VerifiedNews(self.news))
    }

    /// The datagram.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&MAGIC[..], &[NEWS], &self.news.content(), &self.signature].concat()
    }
}

impl VerifiedNews {
    /// What the teller says.
    #[must_use]
    pub const fn news(&self) -> &News {
        &self.0
    }
}

impl Ask {
    /// The datagram.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        [&MAGIC[..], &[ASK], &self.epoch.to_be_bytes()].concat()
    }
}

impl Datagram {
    /// Reads a datagram as a whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = Rest(bytes.strip_prefix(&MAGIC).ok_or(Malformed::Magic)?);
        let datagram = match u8::from_be_bytes(rest.take()?) {
            NEWS => Self::News(SignedNews { news: rest.news()?, signature: rest.take()? }),
            ASK => Self::Ask(Ask { epoch: u64::from_be_bytes(rest.take()?) }),
            other => return Err(Malformed::Kind(other)),
        };
        if rest.0.is_empty() { Ok(datagram) } else { Err(Malformed::Length) }
    }
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn token(&mut self) -> Result<TokenId, Malformed> {
        TokenId::new(u32::from_be_bytes(self.take()?)).ok_or(Malformed::Token)
    }

    fn news(&mut self) -> Result<News, Malformed> {
        let teller = self.token()?;
        let chain_id = u64::from_be_bytes(self.take()?);
        let contract = Address::from(self.take::<20>()?);
        let (epoch, block) = (u64::from_be_bytes(self.take()?), u64::from_be_bytes(self.take()?));
        let hash = B256::from(self.take::<32>()?);
        let count = u8::from_be_bytes(self.take()?);
        if usize::from(count) > MAX_REMOVALS {
            return Err(Malformed::TooMany(count));
        }
        let mut removals: Vec<Removal> = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let removal = Removal { token: self.token()?, key_epoch: u32::from_be_bytes(self.take()?) };
            if removals.last().is_some_and(|last| last.token >= removal.token) {
                return Err(Malformed::Order);
            }
            removals.push(removal);
        }
        Ok(News { teller, domain: Domain { chain_id, contract }, epoch, block, hash, removals })
    }
}
