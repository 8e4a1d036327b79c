//! `--dry-run`: the calls that a command would send, decoded from the bytes that it would sign, and what the contract would answer.
//! Nothing is sent, and no nonce is used up.

use alloy_primitives::{Address, Bytes, U64, U256};
use mesh_chain::{
    AccountOverride, At, Fees, StateOverride,
    fees::{ether, ether_at_most, gwei},
};
use serde::{Serialize, Serializer};

use super::{
    Call, Operator,
    decoded::{Argument, DecodedCall, decode_call},
};
use crate::{
    confirm::Consequences,
    failure::{self, Failure},
    output::Printer,
    render::printable,
};

/// All calls of one command, in order.
#[derive(Debug, Serialize)]
pub(crate) struct Preview {
    dry_run: bool,
    chain_id: u64,
    from: Address,
    calls: Vec<CallView>,
}

#[derive(Debug, Serialize)]
struct CallView {
    what: String,
    /// `null`: a new contract.
    to: Option<Address>,
    /// Wei, in decimal.
    #[serde(serialize_with = "decimal")]
    value: U256,
    /// `null`: no call of a cluster.
    function: Option<String>,
    arguments: Vec<ArgumentView>,
    data: Bytes,
    /// What the operator would be asked about; `null`: nothing.
    consequences: Option<Consequences>,
    accepted: bool,
    /// Why it would be refused.
    error: Option<String>,
    hint: Option<String>,
    /// What it would cost; `null` where it would be refused.
    gas: Option<GasView>,
}

#[derive(Debug, Serialize)]
struct ArgumentView {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

#[derive(Debug, Serialize)]
struct GasView {
    /// Gas limit: a fifth more than the estimate.
    limit: u64,
    /// Wei for one unit of gas, at most, in decimal.
    #[serde(serialize_with = "decimal")]
    max_fee_per_gas: U256,
    /// Wei, at most, in decimal.
    #[serde(serialize_with = "decimal")]
    max_cost: U256,
}

/// Amounts are text in JSON: many readers take numbers for floating point.
fn decimal<S: Serializer>(amount: &U256, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(amount)
}

/// One call, and what to show of it.
pub(crate) struct Planned {
    pub(crate) call: Call,
    /// The call of a cluster that the data carries inside, where it is a proxy's creation or upgrade.
    pub(crate) inner: Option<Bytes>,
}

impl From<Call> for Planned {
    fn from(call: Call) -> Self {
        Self { call, inner: None }
    }
}

impl Operator {
    /// Simulates the calls on the newest block, each with the contracts in place that those before it create.
    pub(crate) async fn preview(&self, printer: &Printer, calls: Vec<Planned>) -> anyhow::Result<Preview> {
        let mut views = Vec::new();
        let mut created = StateOverride::new();
        for planned in calls {
            views.push(self.view(planned, &mut created).await?);
        }
        if printer.json() {
            views.iter_mut().for_each(|view| view.make_pasteable(printer));
        }
        Ok(Preview { dry_run: true, chain_id: self.chain.id, from: self.address, calls: views })
    }

    async fn view(&self, planned: Planned, created: &mut StateOverride) -> anyhow::Result<CallView> {
        let Planned { call, inner } = planned;
        if let Some(contract) = call.callee() {
            self.chain.require_code(contract).await?;
        }
        let decoded = decode_call(inner.as_ref().unwrap_or(&call.data));
        let (function, arguments) = decoded.map_or((None, Vec::new()), |DecodedCall { function, arguments }| {
            (Some(function), arguments.into_iter().map(ArgumentView::from).collect())
        });
        let (gas, refusal) = match self.simulate(&call, created).await {
            Ok(fees) => (Some(GasView::from(fees)), None),
            Err(error) => (None, Some(failure::parts(&error))),
        };
        let (error, hint) = refusal.map_or((None, None), |(error, hint)| (Some(error), hint));
        let Call { what, to, data, value, least_gas: _, most_gas: _, consequences } = call;
        let accepted = error.is_none();
        Ok(CallView { what, to, value, function, arguments, data, consequences, accepted, error, hint, gas })
    }

    /// What the call would cost; its refusal otherwise. A contract that it creates is added to `created`.
    async fn simulate(&self, call: &Call, created: &mut StateOverride) -> anyhow::Result<Fees> {
        let chain = &self.chain;
        let output = match chain.source.try_call(&call.request(self.address), At::Latest, created).await {
            Ok(output) => output,
            Err(error) => return Err(self.refusal(call, &error).await),
        };
        let fees = self.quote(call, created).await?;
        if call.to.is_none() {
            let account = created.entry(self.address).or_default();
            let nonce = match account.nonce {
                Some(nonce) => nonce.to(),
                None => self.nonce(At::Latest).await?,
            };
            // The next contract has an address of its own.
            account.nonce = Some(U64::from(nonce.saturating_add(1)));
            created.insert(
                self.address.create(nonce),
                AccountOverride { code: Some(output), ..AccountOverride::default() },
            );
        }
        Ok(fees)
    }

    /// Where the next two contracts of this account would be if a command created them now.
    pub(crate) async fn next_contracts(&self) -> anyhow::Result<[Address; 2]> {
        let nonce = self.nonce(At::Latest).await?;
        Ok([0, 1].map(|later| self.address.create(nonce.saturating_add(later))))
    }
}

impl Preview {
    /// Whether every call would be accepted.
    pub(crate) fn accepted(&self) -> bool {
        self.calls.iter().all(|call| call.accepted)
    }

    /// The first call that would be refused, and why.
    pub(crate) fn refusal(&self) -> Option<Failure> {
        let call = self.calls.iter().find(|call| !call.accepted)?;
        let why = call.error.as_deref().unwrap_or("it would be refused");
        let failure = Failure::new(format!("cannot {}: {why}", call.what));
        Some(match &call.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("dry run: nothing is sent\nfrom      {} on chain {}\n", self.from, self.chain_id);
        for call in &self.calls {
            text.push('\n');
            text.push_str(&call.text());
        }
        printable(&text)
    }
}

impl CallView {
    /// What it suggests can be pasted, as in the text.
    fn make_pasteable(&mut self, printer: &Printer) {
        let suggestions = self.consequences.iter_mut().flat_map(|words| [&mut words.effect, &mut words.way_back]);
        for text in suggestions.chain(self.hint.iter_mut()) {
            *text = printer.pasteable(text);
        }
    }

    fn text(&self) -> String {
        let to = self.to.map_or_else(|| "a new contract".to_owned(), |to| to.to_string());
        let mut lines = vec![format!("would {}", self.what), format!("to        {to}")];
        if !self.value.is_zero() {
            lines.push(format!("value     {} ether", ether(self.value)));
        }
        match &self.function {
            Some(function) => lines.push(format!("function  {function}")),
            None => lines.push(format!("data      {} bytes", self.data.len())),
        }
        let width = self.arguments.iter().map(|argument| argument.name.len()).max().unwrap_or(0);
        lines.extend(self.arguments.iter().map(|argument| format!("  {:width$}  {}", argument.name, argument.value)));
        if self.to.is_some() {
            lines.push(format!("data      {}", self.data));
        }
        lines.extend(self.consequences.iter().map(|consequences| consequences.text().trim_end().to_owned()));
        match &self.error {
            None => lines.push("result    would be accepted".to_owned()),
            Some(error) => lines.push(format!("result    would be refused: {error}")),
        }
        lines.extend(self.hint.iter().map(|hint| format!("hint      {hint}")));
        lines.extend(self.gas.iter().map(GasView::text));
        lines.join("\n") + "\n"
    }
}

impl GasView {
    fn text(&self) -> String {
        let Self { limit, max_fee_per_gas, max_cost } = self;
        format!("gas       {limit} at {} gwei: at most {} ether", gwei(*max_fee_per_gas), ether_at_most(*max_cost))
    }
}

impl From<Fees> for GasView {
    fn from(fees: Fees) -> Self {
        Self { limit: fees.gas, max_fee_per_gas: U256::from(fees.price.max), max_cost: fees.max_cost() }
    }
}

impl From<Argument> for ArgumentView {
    fn from(Argument { name, kind, value }: Argument) -> Self {
        Self { name, kind, value }
    }
}
