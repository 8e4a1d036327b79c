//! The local `p2p-agent`: everything that this program knows of mesh and contract comes from its socket.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use counter_core::{Seat, Token};
use dstack_p2p::{Agent, Cast, Error, Member, MembershipState, TokenId};
use serde_json::Value;

use crate::Addresses;

/// How often the agent is asked again while the answer is not there yet.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// One agent.
#[derive(Debug, Clone)]
pub(crate) struct AgentClient(Agent);

/// The mesh, as the agent lists it.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// This node, while it is a member.
    pub(crate) own: Option<(Token, Ipv4Addr)>,
    /// The others that this node has a tunnel with.
    pub(crate) others: Addresses,
}

impl AgentClient {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self(Agent::new(socket))
    }

    /// Waits until this node is a member with a mesh address.
    pub(crate) async fn wait_for_own_address(&self) -> (Token, Ipv4Addr) {
        let mut told = String::new();
        loop {
            let reason = match self.mesh().await {
                Ok(Mesh { own: Some(own), .. }) => return own,
                Ok(Mesh { own: None, .. }) => "the agent is no member of the mesh yet: see `meshctl status`".to_owned(),
                Err(error) => error.to_string(),
            };
            if reason != told {
                tracing::info!("waiting: {reason}");
                told = reason;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    pub(crate) async fn mesh(&self) -> Result<Mesh, Error> {
        let peers = self.0.peers().await?;
        let is_member = peers.membership == MembershipState::Active;
        let own = peers.own.clone().filter(|_| is_member);
        let others = peers.members(false);
        Ok(Mesh { own: own.and_then(place), others: others.into_iter().filter_map(place).collect() })
    }

    /// Who leads by the contract.
    pub(crate) async fn seat(&self) -> Result<Seat, Error> {
        let seat = self.0.leader().await?;
        Ok(Seat { term: seat.term, leader: seat.leader_token.and_then(seated) })
    }

    /// Votes against the leader of `seat`, or has one elected where it has none.
    pub(crate) async fn vote(&self, seat: Seat) -> Result<Cast, Error> {
        let leader_token = seat.leader.and_then(|token| TokenId::new(token.0.into()));
        self.0.vote(dstack_p2p::Seat { term: seat.term, leader_token }).await
    }

    /// What the agent reports about this node's wallet.
    pub(crate) async fn wallet(&self) -> Result<Value, Error> {
        let status = self.0.status().await?;
        let (own, registry) = (status.own, status.registry);
        Ok(serde_json::json!({
            "token_id": own.token_id,
            "member_address": own.member_address,
            "instance_id": own.instance_id,
            "membership": own.membership,
            "chain_id": registry.chain_id,
            "contract": registry.contract,
        }))
    }
}

/// Mesh addresses have room for tokens of 16 bits.
fn seated(token: TokenId) -> Option<Token> {
    u16::try_from(token.get()).ok().map(Token)
}

fn place(member: Member) -> Option<(Token, Ipv4Addr)> {
    seated(member.token_id).zip(member.address)
}
