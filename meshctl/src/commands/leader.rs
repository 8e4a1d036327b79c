//! `meshctl leader`: the one leader of the members, votes of no confidence in it, and the election of the next. A member votes with
//! its member key, by a transaction of its own or by a signature that any account submits.

mod signed;

use alloy_primitives::Address;
use clap::Subcommand;
use mesh_contract::{
    DstackClusterNFT::{
        LeaderElected, VoteCast, castVoteCall, currentLeaderCall, electLeaderCall, leaderTokenCall,
        noConfidenceCountCall, peerCountCall, requiredVotesCall, termCall,
    },
    UnsignedVote, VOTE_GAS,
};
use mesh_core::id::TokenId;
use serde::Serialize;

use super::{
    change::{Report, change},
    token::token_id,
};
use crate::{
    address::parse_address,
    chain::{Block, Call, Chain, Done, Operator},
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl leader vote --private-key-file member.key")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the leader, the term and the votes against it (default)
    Show,
    /// Vote no confidence in the leader (a member, with its member key)
    Vote(VoteArgs),
    /// Take one's vote back (a member, with its member key)
    Withdraw(VoteArgs),
    /// Submit a vote that a member has signed (any account)
    Relay(signed::RelayArgs),
    /// Elect a leader while the seat is empty (any account)
    Elect(ElectArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct VoteArgs {
    /// The leader that is meant [default: the one that stands]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    target: Option<Address>,
    /// Print the vote of this token's node, signed, for `meshctl leader relay`; send nothing
    #[arg(long, value_name = "TOKEN", conflicts_with = "dry_run")]
    sign_for: Option<TokenId>,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, clap::Args)]
struct ElectArgs {
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Standing {
    schema: &'static str,
    contract: Address,
    chain_id: u64,
    block_number: u64,
    /// The leader's member address; `null`: none stands.
    leader: Option<Address>,
    token_id: Option<TokenId>,
    term: u32,
    /// Votes of no confidence in the leader that count now.
    votes: u64,
    required_votes: u64,
    members: u64,
}

/// A vote that counts, or a vote taken back.
#[derive(Debug, Serialize)]
struct Voted {
    token_id: TokenId,
    target: Address,
    is_no_confidence: bool,
    votes: u32,
    term: u32,
    /// The new leader where the vote was the last one required; `null` where the leader keeps the seat.
    elected: Option<Address>,
}

#[derive(Debug, Serialize)]
struct Elected {
    leader: Option<Address>,
    token_id: Option<TokenId>,
    term: Option<u32>,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        None | Some(Verb::Show) => show(settings, printer).await,
        Some(Verb::Vote(args)) => vote(args, true, settings, printer).await,
        Some(Verb::Withdraw(args)) => vote(args, false, settings, printer).await,
        Some(Verb::Relay(args)) => signed::relay(args, settings, printer).await,
        Some(Verb::Elect(args)) => elect(args, settings, printer).await,
    }
}

async fn show(settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (chain, contract) = Chain::of_cluster(settings).await?;
    let standing = standing(&chain, contract).await?;
    printer.result(&standing, || text(&standing))?;
    Ok(0)
}

async fn standing(chain: &Chain, contract: Address) -> anyhow::Result<Standing> {
    let head = chain.head().await?;
    let at = Some(head);
    let target = chain.read(contract, currentLeaderCall {}, at).await?;
    let token = chain.read(contract, leaderTokenCall {}, at).await?;
    let votes = chain.read(contract, noConfidenceCountCall { target }, at).await?;
    let required = chain.read(contract, requiredVotesCall {}, at).await?;
    let members = chain.read(contract, peerCountCall {}, at).await?;
    Ok(Standing {
        schema: "meshctl.leader/v1",
        contract,
        chain_id: chain.id,
        block_number: head.number,
        leader: (!target.is_zero()).then_some(target),
        token_id: if token.is_zero() { None } else { Some(token_id(token)?) },
        term: chain.read(contract, termCall {}, at).await?,
        votes: votes.saturating_to(),
        required_votes: required.saturating_to(),
        members: members.saturating_to(),
    })
}

fn text(standing: &Standing) -> String {
    let Standing { term, votes, required_votes, members, .. } = standing;
    let leader = match (standing.leader, standing.token_id) {
        (Some(leader), Some(token)) => format!("token {token}, member address {leader}"),
        (Some(leader), None) => format!("member address {leader}"),
        (None, _) => "none stands: `meshctl leader elect`".to_owned(),
    };
    format!(
        "leader   {leader}\nterm     {term}\nvotes    {votes} of the {required_votes} that depose it, {members} members\n"
    )
}

async fn vote(args: &VoteArgs, no_confidence: bool, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let head = operator.chain.head().await?;
    let target = target(&operator.chain, contract, args.target, head).await?;
    let term = operator.chain.read(contract, termCall {}, Some(head)).await?;
    if let Some(token) = args.sign_for {
        // With the operator's key, which must be the member key of the token.
        let vote = UnsignedVote {
            chain_id: operator.chain.id,
            contract,
            token_id: token,
            term,
            target,
            is_no_confidence: no_confidence,
            deadline: signed::deadline(),
        };
        printer.value(&vote.sign(|digest| operator.sign_hash(digest))?)?;
        return Ok(0);
    }
    let call = castVoteCall { inTerm: term, target, isNoConfidence: no_confidence };
    let call = Call::function(what(no_confidence, target), contract, &call).with_least_gas(VOTE_GAS);
    change(&operator, printer, contract, call, |done| report(done, contract)).await
}

fn what(no_confidence: bool, target: Address) -> String {
    let verb = if no_confidence { "vote no confidence" } else { "take back the vote of no confidence" };
    format!("{verb} in {target}")
}

async fn target(chain: &Chain, contract: Address, given: Option<Address>, at: Block) -> anyhow::Result<Address> {
    if let Some(target) = given {
        return Ok(target);
    }
    let leader = chain.read(contract, currentLeaderCall {}, Some(at)).await?;
    if leader.is_zero() {
        return Err(Failure::new("there is no leader to vote on").hint("elect one: `meshctl leader elect`").into());
    }
    Ok(leader)
}

/// What a vote did, by the contract's events.
fn report(done: &Done, contract: Address) -> anyhow::Result<Report<Voted>> {
    let cast: VoteCast = done.event(contract)?;
    let elected = elected(done, contract);
    let verb = if cast.isNoConfidence { "voted no confidence in" } else { "took back its vote of no confidence in" };
    let mut text =
        format!("token {} {verb} {}\nvotes       {} in term {}\n", cast.tokenId, cast.target, cast.votes, cast.term);
    if let Some(elected) = &elected {
        text.push_str(&format!("leader      token {}, member address {}\n", elected.tokenId, elected.leader));
    }
    let voted = Voted {
        token_id: token_id(cast.tokenId)?,
        target: cast.target,
        is_no_confidence: cast.isNoConfidence,
        votes: cast.votes,
        term: cast.term,
        elected: elected.map(|elected| elected.leader),
    };
    Ok((voted, text))
}

async fn elect(args: &ElectArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let call = Call::function("elect a leader", contract, &electLeaderCall {});
    change(&operator, printer, contract, call, |done| {
        let Some(LeaderElected { tokenId: token, leader, term, .. }) = elected(done, contract) else {
            let text =
                "no leader is elected yet: only stale registrations were passed, run `meshctl leader elect` again";
            return Ok((Elected { leader: None, token_id: None, term: None }, text.to_owned()));
        };
        let text = format!("token {token} leads in term {term}\nleader      {leader}");
        Ok((Elected { leader: Some(leader), token_id: Some(token_id(token)?), term: Some(term) }, text))
    })
    .await
}

/// The member that was elected. None where only stale registrations were passed: the contract is silent then, or says that the seat is empty
/// by a token of zero, and the next call goes on from there.
fn elected(done: &Done, contract: Address) -> Option<LeaderElected> {
    done.event::<LeaderElected>(contract).ok().filter(|elected| !elected.tokenId.is_zero())
}
