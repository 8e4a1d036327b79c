//! Who may talk now, as the contract was last believed, and until when that may be believed.

use std::{collections::BTreeMap, future::pending, num::NonZeroU16, sync::Arc};

use mesh_core::{
    id::{InstanceId, TokenId},
    place::{Domain, host_name},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::spki::SpkiSha256;

/// Until when a view of the contract may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Until then; from then on, no member may talk.
    Until(Instant),
    /// The operator lets an old view stand.
    Always,
}

/// Where a member is reached: behind a dstack gateway, which finds it by the server name in TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The CVM.
    pub instance: InstanceId,
    /// The TCP port of the front that its URL names; `None` where it has no URL, and may have fronts all the same.
    pub port: Option<NonZeroU16>,
    /// The gateway.
    pub domain: Domain,
}

impl Place {
    /// The host name of this port of it, for DNS and TLS.
    #[must_use]
    pub fn host(&self, port: NonZeroU16) -> String {
        host_name(self.instance, port, &self.domain)
    }
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its key, as registered.
    pub key: SpkiSha256,
    /// Where it is reached; `None` for one that calls others, and has no front.
    pub place: Option<Place>,
}

/// Who may talk now. A connection needs both ends to be members: a node that is none itself talks to no member, and lets none in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    own: Option<TokenId>,
    by_token: BTreeMap<TokenId, Member>,
    by_key: BTreeMap<SpkiSha256, TokenId>,
    trust: Trust,
}

/// Why a member may not talk (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CutOff {
    /// The view of the contract is too old, or there has been none.
    #[error(
        "this node's view of the contract has expired\nhint: `meshctl status` says which RPC endpoints do not answer"
    )]
    Expired,
    /// This node is no member.
    #[error("this node is no member\nhint: `meshctl status` says where it stands")]
    OwnLeft,
    /// The other end is no member.
    #[error("it is no member now")]
    NoMember,
    /// Its key is another one than the member's.
    #[error("the contract names another TLS key for it")]
    OtherKey,
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

impl Members {
    /// No member, as before the first read of the contract.
    #[must_use]
    pub fn none() -> Self {
        Self { own: None, by_token: BTreeMap::new(), by_key: BTreeMap::new(), trust: Trust::Until(Instant::now()) }
    }

    /// These members, this node among them or not; `own` is its token while it is one. Where two have the same key, neither may talk:
    /// the contract allows no such thing.
    pub fn new(own: Option<TokenId>, members: impl IntoIterator<Item = (TokenId, Member)>, trust: Trust) -> Self {
        let mut by_token: BTreeMap<TokenId, Member> = members.into_iter().collect();
        let mut count: BTreeMap<SpkiSha256, usize> = BTreeMap::new();
        for member in by_token.values() {
            *count.entry(member.key).or_default() += 1;
        }
        by_token.retain(|_, member| count.get(&member.key) == Some(&1));
        let by_key = by_token.iter().map(|(token, member)| (member.key, *token)).collect();
        Self { own, by_token, by_key, trust }
    }

    /// Who has that key.
    ///
    /// # Errors
    /// Why no one with it may talk.
    pub fn with_key(&self, key: SpkiSha256, now: Instant) -> Result<TokenId, CutOff> {
        self.usable(now)?;
        self.by_key.get(&key).copied().ok_or(CutOff::NoMember)
    }

    /// The member of that token.
    ///
    /// # Errors
    /// Why it may not talk.
    pub fn of_token(&self, token: TokenId, now: Instant) -> Result<&Member, CutOff> {
        self.usable(now)?;
        self.by_token.get(&token).ok_or(CutOff::NoMember)
    }

    /// All of them, ascending by token, whether or not they may talk now.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, &Member)> {
        self.by_token.iter().map(|(token, member)| (*token, member))
    }

    /// This node's token, while it is a member.
    #[must_use]
    pub const fn own(&self) -> Option<TokenId> {
        self.own
    }

    /// Until when this holds.
    #[must_use]
    pub const fn trust(&self) -> Trust {
        self.trust
    }

    /// Whether that key is still this member's.
    fn check(&self, token: TokenId, key: SpkiSha256, now: Instant) -> Result<(), CutOff> {
        if self.of_token(token, now)?.key == key { Ok(()) } else { Err(CutOff::OtherKey) }
    }

    fn usable(&self, now: Instant) -> Result<(), CutOff> {
        match self.trust {
            Trust::Until(end) if now >= end => Err(CutOff::Expired),
            Trust::Until(_) | Trust::Always if self.own.is_none() => Err(CutOff::OwnLeft),
            Trust::Until(_) | Trust::Always => Ok(()),
        }
    }
}

/// Returns when this key is not that member's any more, and why. Its first poll judges the members of the moment, so there is no gap
/// between a check before and this.
pub(crate) async fn cut_off(mut members: watch::Receiver<Arc<Members>>, token: TokenId, key: SpkiSha256) -> CutOff {
    loop {
        let judged = {
            let members = members.borrow_and_update();
            members.check(token, key, Instant::now()).map(|()| members.trust())
        };
        let expires = async {
            match judged {
                Ok(Trust::Until(end)) => sleep_until(end).await,
                Ok(Trust::Always) | Err(_) => pending().await,
            }
        };
        if let Err(why) = judged {
            return why;
        }
        tokio::select! {
            changed = members.changed() => if changed.is_err() { return CutOff::Stopping },
            () = expires => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn token(id: u32) -> TokenId {
        TokenId::new(id).unwrap()
    }

    fn member(key: u8) -> Member {
        Member { key: SpkiSha256([key; 32]), place: None }
    }

    fn members(keys: &[(u32, u8)], trust: Trust) -> Arc<Members> {
        Arc::new(Members::new(Some(token(1)), keys.iter().map(|(id, key)| (token(*id), member(*key))), trust))
    }

    #[tokio::test(start_paused = true)]
    async fn only_members_of_a_view_that_holds_may_talk() {
        let now = Instant::now();
        let end = now + Duration::from_secs(30);
        let view = members(&[(1, 1), (2, 2)], Trust::Until(end));
        assert_eq!(view.with_key(SpkiSha256([2; 32]), now), Ok(token(2)));
        assert_eq!(view.with_key(SpkiSha256([3; 32]), now), Err(CutOff::NoMember));
        assert_eq!(view.with_key(SpkiSha256([2; 32]), end), Err(CutOff::Expired));
        assert_eq!(view.of_token(token(2), now).map(|member| member.key), Ok(SpkiSha256([2; 32])));
        assert_eq!(view.of_token(token(3), now), Err(CutOff::NoMember));
        let none = Members::none();
        assert_eq!(none.with_key(SpkiSha256([2; 32]), now), Err(CutOff::Expired));
        let left = Members::new(None, [(token(2), member(2))], Trust::Always);
        assert_eq!(left.with_key(SpkiSha256([2; 32]), now), Err(CutOff::OwnLeft));
        let always = members(&[(2, 2)], Trust::Always);
        assert_eq!(always.with_key(SpkiSha256([2; 32]), now + Duration::from_secs(1 << 30)), Ok(token(2)));
    }

    #[test]
    fn a_key_of_two_members_is_of_neither() {
        let view = members(&[(1, 1), (2, 7), (3, 7)], Trust::Always);
        assert_eq!(view.iter().map(|(token, _)| token.get()).collect::<Vec<_>>(), [1]);
        assert!(view.with_key(SpkiSha256([7; 32]), Instant::now()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_its_member_does() {
        let end = Instant::now() + Duration::from_secs(30);
        let key = SpkiSha256([2; 32]);
        let view = |keys: &[(u32, u8)]| members(keys, Trust::Until(end));
        for (then, expected) in [
            (view(&[(1, 1)]), CutOff::NoMember),
            (view(&[(1, 1), (2, 3)]), CutOff::OtherKey),
            (view(&[(1, 1), (3, 2)]), CutOff::NoMember),
            (Arc::new(Members::new(None, [(token(2), member(2))], Trust::Always)), CutOff::OwnLeft),
            (Arc::new(Members::none()), CutOff::Expired),
        ] {
            let sender = watch::Sender::new(view(&[(1, 1), (2, 2)]));
            let task = tokio::spawn(cut_off(sender.subscribe(), token(2), key));
            tokio::task::yield_now().await;
            // Others may come and go.
            sender.send_replace(view(&[(1, 1), (2, 2), (4, 4)]));
            tokio::task::yield_now().await;
            assert!(!task.is_finished());
            sender.send_replace(then);
            assert_eq!(task.await.unwrap(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_that_is_renewed_does_not_end_and_one_that_is_not_does() {
        let start = Instant::now();
        let view = |seconds| members(&[(1, 1), (2, 2)], Trust::Until(start + Duration::from_secs(seconds)));
        let sender = watch::Sender::new(view(30));
        let task = tokio::spawn(cut_off(sender.subscribe(), token(2), SpkiSha256([2; 32])));
        tokio::time::sleep(Duration::from_secs(20)).await;
        sender.send_replace(view(50));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!task.is_finished());
        assert_eq!(task.await.unwrap(), CutOff::Expired);
        assert_eq!(start.elapsed().as_secs(), 50);
    }

    #[tokio::test]
    async fn without_an_agent_no_member_may_talk() {
        let sender = watch::Sender::new(members(&[(1, 1), (2, 2)], Trust::Always));
        let task = tokio::spawn(cut_off(sender.subscribe(), token(2), SpkiSha256([2; 32])));
        drop(sender);
        assert_eq!(task.await.unwrap(), CutOff::Stopping);
    }
}
