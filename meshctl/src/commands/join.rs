//! From a token to a member: submits what the node's agent signs, gives the node funds, and waits until the contract lists it. What is
//! done already is not done again, so that a run that was cut short can be repeated.

use std::time::Duration;

use alloy_primitives::{Address, TxHash, U256};
use mesh_chain::fees::ether;
use mesh_contract::DstackClusterNFT::getNodeCall;
use mesh_core::{
    id::{InstanceId, TokenId},
    registry::NodeRecord,
    status::Status,
};
use tokio::time::{Instant, sleep};

use super::{register, token::uint};
use crate::{
    agent_socket::AgentSocket,
    chain::{Call, Operator, Planned},
    failure::{Failure, USAGE, exit_code},
    output::Printer,
    settings::Settings,
};

/// How often agent and contract are asked.
const POLL: Duration = Duration::from_millis(250);

/// What is to be done for a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) token: TokenId,
    pub(super) instance: InstanceId,
    /// The node's address is to have so much at least, wei.
    pub(super) fund: Option<U256>,
    /// Its registration is submitted for it.
    pub(super) relay: bool,
    pub(super) timeout: Duration,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub(super) member_address: Option<Address>,
    /// Wei that were sent.
    pub(super) funded: Option<U256>,
    pub(super) transactions: Vec<TxHash>,
}

/// One run of it.
struct Joining<'a> {
    operator: &'a Operator,
    settings: &'a Settings,
    printer: &'a Printer,
    contract: Address,
    wanted: Wanted,
    /// Its registration was accepted in this run.
    is_relayed: bool,
    done: Joined,
}

/// Makes the node of a token a member.
///
/// # Errors
/// It is not one in time, and why; the agent that answers is another node's; a transaction fails.
pub(super) async fn join(
    operator: &Operator,
    settings: &Settings,
    printer: &Printer,
    contract: Address,
    wanted: Wanted,
) -> anyhow::Result<Joined> {
    Joining { operator, settings, printer, contract, wanted, is_relayed: false, done: Joined::default() }.run().await
}

impl Joining<'_> {
    async fn run(mut self) -> anyhow::Result<Joined> {
        let token = self.wanted.token;
        let deadline = Instant::now() + self.wanted.timeout;
        let mut said = String::new();
        loop {
            let waits_for = match self.step().await? {
                Step::Done => continue,
                Step::Joined => {
                    self.printer.note(format!("token {token}: the node is a member"));
                    return Ok(self.done);
                }
                Step::WaitsFor(what) => what,
            };
            if Instant::now() >= deadline {
                let what = format!("token {token} is minted, and its node is no member yet: {waits_for}");
                return Err(Failure::new(what)
                    .hint("run the same command again: it goes on from here; `meshctl status` on the node says more")
                    .into());
            }
            if waits_for != said {
                self.printer.note(format!("token {token}: waiting: {waits_for}"));
                said = waits_for;
            }
            sleep(POLL).await;
        }
    }

    async fn node(&self) -> anyhow::Result<NodeRecord> {
        let call = getNodeCall { tokenId: uint(self.wanted.token) };
        Ok(self.operator.chain.read(self.contract, call, None).await?.try_into()?)
    }

    async fn has_funds(&self, account: Address) -> anyhow::Result<bool> {
        match self.wanted.fund {
            // An endpoint may lag: what was sent is not sent again.
            Some(amount) if self.done.funded.is_none() => Ok(self.operator.chain.balance(account).await? >= amount),
            Some(_) | None => Ok(true),
        }
    }

    /// The next thing that can be done. The registration comes first: a node that has funds would submit it too.
    async fn step(&mut self) -> anyhow::Result<Step> {
        let asked = agent(self.operator, self.settings, self.contract, self.wanted.instance).await?;
        let status = match asked {
            Ok(status) => status,
            Err(what) => return Ok(Step::WaitsFor(what)),
        };
        let own = status.own.member_address;
        self.done.member_address = Some(own);
        let node = self.node().await?;
        if let Some(holder) = node.member_address.filter(|holder| *holder != own) {
            return Err(self.held_by_another(holder, own).into());
        }
        if !node.active && self.wanted.relay && !self.is_relayed {
            return self.relay().await;
        }
        if !self.has_funds(own).await? {
            return self.fund(own).await;
        }
        if node.active {
            return Ok(Step::Joined);
        }
        let why = status.warnings.first().map(|warning| warning.message.clone());
        Ok(Step::WaitsFor(why.unwrap_or_else(|| "the node registers".to_owned())))
    }

    /// Another instance of the same app can register first: it is no member in this node's place, and gets no funds.
    fn held_by_another(&self, holder: Address, own: Address) -> Failure {
        let Wanted { token, instance, .. } = self.wanted;
        Failure::new(format!("token {token} is held by member address {holder}, and this node's is {own}")).hint(
            format!("`meshctl deactivate {token}`, then `meshctl bind {token} --instance {instance}` lets this one in"),
        )
    }

    /// Submits what the agent has signed.
    async fn relay(&mut self) -> anyhow::Result<Step> {
        let socket = AgentSocket::new(self.settings.socket()?);
        let offer = match socket.registration(Some(self.wanted.token)).await {
            Ok(offer) => offer,
            Err(error) => return Ok(Step::WaitsFor(format!("{error:#}"))),
        };
        let call = register::call(&offer, Some(self.contract), &self.operator.chain)?;
        match self.operator.send(self.printer, &call).await {
            Ok(sent) => {
                self.done.transactions.push(sent.hash);
                self.is_relayed = true;
                Ok(Step::Done)
            }
            // The node may have paid for it itself meanwhile.
            Err(_) if self.node().await?.active => Ok(Step::Done),
            Err(error) => Err(error),
        }
    }

    /// Sends what is missing.
    async fn fund(&mut self, account: Address) -> anyhow::Result<Step> {
        let amount = self.wanted.fund.unwrap_or_default();
        if let Some(payment) = payment(self.operator, account, amount).await? {
            let sent = self.operator.send(self.printer, &payment).await?;
            self.done.transactions.push(sent.hash);
            self.done.funded = Some(payment.value);
        }
        Ok(Step::Done)
    }
}

/// What a node's agent says. One that is not there yet is waited for: that is what, in words.
///
/// # Errors
/// The agent that answers is another node's, or follows another contract or chain.
pub(super) async fn agent(
    operator: &Operator,
    settings: &Settings,
    contract: Address,
    instance: InstanceId,
) -> anyhow::Result<Result<Status, String>> {
    let socket = match settings.socket() {
        Ok(socket) => AgentSocket::new(socket),
        Err(failure) => {
            let error = failure.into();
            let is_usage = exit_code(&error) == USAGE;
            return if is_usage { Err(error) } else { Ok(Err(format!("{error:#}"))) };
        }
    };
    let status = match socket.status().await {
        Ok(status) => status,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let is = status.own.instance_id;
    if is != instance {
        return Err(Failure::new(format!("the agent that answers here is that of instance {is}, not of {instance}"))
            .hint("run this on the node, or name its agent's socket with `--socket PATH`")
            .into());
    }
    let is = status.registry.contract;
    if is != contract {
        return Err(Failure::new(format!("the node's agent follows contract {is}, not {contract}"))
            .hint("start it with that contract, or give its contract with `--contract`")
            .into());
    }
    if let Some(chain) = status.registry.chain_id.filter(|chain| *chain != operator.chain.id) {
        let what = format!("the node's chain is {chain}, but `--rpc-url` leads to chain {}", operator.chain.id);
        return Err(Failure::new(what).hint("give an endpoint of the node's chain").into());
    }
    Ok(Ok(status))
}

/// What a dry run shows of the steps after the mint, and in words what it cannot show. `minted` is the token, where there is one.
pub(super) async fn plan(
    operator: &Operator,
    settings: &Settings,
    printer: &Printer,
    contract: Address,
    minted: Option<&NodeRecord>,
    (instance, fund, relay): (InstanceId, Option<U256>, bool),
) -> anyhow::Result<Vec<Planned>> {
    let status = match agent(operator, settings, contract, instance).await? {
        Ok(status) => status,
        Err(what) => {
            printer.note(format!("not shown: what follows once the node's agent answers ({what})"));
            return Ok(Vec::new());
        }
    };
    let mut calls = Vec::new();
    if relay && minted.is_none_or(|node| !node.active) {
        let offer = match minted {
            Some(node) => AgentSocket::new(settings.socket()?).registration(Some(node.token)).await,
            None => Err(anyhow::anyhow!("the agent signs it once the token is there")),
        };
        match offer {
            Ok(offer) => calls.push(register::call(&offer, Some(contract), &operator.chain)?.into()),
            Err(error) => printer.note(format!("not shown: the registration ({error:#})")),
        }
    }
    if let Some(amount) = fund {
        calls.extend(payment(operator, status.own.member_address, amount).await?.map(Planned::from));
    }
    Ok(calls)
}

/// What a node lacks of an amount; `None` if nothing.
async fn payment(operator: &Operator, account: Address, amount: U256) -> anyhow::Result<Option<Call>> {
    let missing = amount.saturating_sub(operator.chain.balance(account).await?);
    let call = || Call::payment(format!("give node {account} {} ether", ether(missing)), account, missing);
    Ok((!missing.is_zero()).then(call))
}

/// What a step came to.
enum Step {
    /// Something was done: look again.
    Done,
    /// The node is a member, and has its funds.
    Joined,
    WaitsFor(String),
}
