//! The dstack app whose contract is to become a cluster. An upgrade that goes wrong may lose the app's boot gate, so whatever can be
//! known beforehand is looked at before anything is paid.

use alloy_primitives::{Address, B256, U256, b256};
use alloy_sol_types::sol;
use mesh_contract::{
    DstackClusterNFT::{meshNetworkCall, ownerCall},
    IMPLEMENTATION_SLOT, mesh_network,
};

use crate::{
    chain::{Chain, Operator, Planned},
    failure::Failure,
    output::Printer,
};

sol! {
    /// Views of dstack's app contract (kms/auth-eth/contracts/DstackApp.sol of dstack).
    interface DstackApp {
        function allowAnyDevice() external view returns (bool);
        function requireTcbUpToDate() external view returns (bool);
    }
}

/// The owner's slot in OpenZeppelin 5 (ERC-7201, `openzeppelin.storage.Ownable`), which DstackApp and clusters share.
const OWNER_SLOT: B256 = b256!("9016d09d72d40fdae2fd8ceac6b6234c7706214fd39c1cd1e609a0528c199300");
/// Slots of DstackApp's own, from 0 on.
const SLOTS: usize = 4;

/// Whether the contract at `app` is a dstack app's proxy that this account may upgrade, and that keeps its state where a cluster
/// looks for it. Returns its owner. Of a dry run, which may be any account's, the account is not looked at: the call's simulation
/// says whose key is needed.
///
/// # Errors
/// What is in the way, and what to do instead.
pub(super) async fn check(operator: &Operator, app: Address) -> anyhow::Result<Address> {
    let chain = &operator.chain;
    let is = |what: &str| Failure::new(format!("{app} on chain {} is {what}", chain.id));
    if chain.code(app).await?.is_empty() {
        return Err(Failure::new(format!("there is no contract at {app} on chain {}", chain.id))
            .hint("give `--upgrade-app` the app's id, which is its contract's address, and check that `--rpc-url` leads to its chain")
            .into());
    }
    let network = chain.answers(app, meshNetworkCall {}).await;
    if network.is_some_and(|network| mesh_network(network.base, network.prefixLength).is_ok()) {
        return Err(is("a cluster already")
            .hint(format!("`meshctl upgrade --contract {contract}` gives it this version's code", contract = app))
            .into());
    }
    let (Some(owner), Some(allow_any_device)) =
        (chain.answers(app, ownerCall {}).await, chain.answers(app, DstackApp::allowAnyDeviceCall {}).await)
    else {
        return Err(is("no dstack app's contract: it has no owner and no device policy")
            .hint("check `--upgrade-app`; a new cluster needs none")
            .into());
    };
    if chain.storage(app, IMPLEMENTATION_SLOT).await?.is_zero() {
        return Err(is("no proxy: its code cannot be replaced")
            .hint("give `--upgrade-app` the address that the app is registered by, not its implementation's")
            .into());
    }
    let require_tcb_up_to_date = chain.answers(app, DstackApp::requireTcbUpToDateCall {}).await.unwrap_or(false);
    let says = Says { owner, allow_any_device, require_tcb_up_to_date };
    let Some(upgrades_disabled) = stored(chain, app).await?.upgrades_disabled(&says) else {
        return Err(is(
            "an app's contract that keeps its state elsewhere than dstack's DstackApp of July 2025 and later",
        )
        .hint("its compose hashes and devices would be lost: deploy a new cluster without `--upgrade-app`")
        .into());
    };
    if upgrades_disabled {
        return Err(is("an app's contract whose upgrades are disabled for ever")
            .hint("deploy a new cluster without `--upgrade-app`; its app id, and so its keys, are others")
            .into());
    }
    if owner != operator.address && !operator.is_dry_run() {
        let what = format!("{} is not the owner of the app's contract {app}, and may not upgrade it", operator.address);
        return Err(Failure::new(what).hint(format!("send it from the owner's key: that of {owner}")).into());
    }
    Ok(owner)
}

/// Runs the calls without sending them, each as if those before it had been sent.
///
/// # Errors
/// One of them would be refused.
pub(super) async fn try_out(operator: &Operator, printer: &Printer, calls: Vec<Planned>) -> anyhow::Result<()> {
    match operator.preview(printer, calls).await?.refusal() {
        Some(refusal) => Err(refusal.into()),
        None => Ok(()),
    }
}

/// What the app's own code says.
#[derive(Debug, Clone, Copy)]
struct Says {
    owner: Address,
    allow_any_device: bool,
    /// False where the code is older than the flag.
    require_tcb_up_to_date: bool,
}

/// What is in its storage.
#[derive(Debug, Clone, Copy)]
struct Stored {
    first: [B256; SLOTS],
    owner: B256,
}

async fn stored(chain: &Chain, app: Address) -> anyhow::Result<Stored> {
    let mut first = [B256::ZERO; SLOTS];
    for (slot, word) in first.iter_mut().enumerate() {
        *word = chain.storage(app, U256::from(slot).into()).await?;
    }
    Ok(Stored { first, owner: chain.storage(app, OWNER_SLOT).await? })
}

impl Stored {
    /// Whether upgrades are disabled, which DstackApp has no function for; `None` where the storage is another contract's. Slot 0:
    /// compose hashes; 1: upgrades disabled, any device; 2: devices; 3: TCB. A mapping's own slot is empty. (Before July 2025 the app id
    /// was in slot 0, and all else one slot later.)
    fn upgrades_disabled(&self, says: &Says) -> Option<bool> {
        let flags = |low: bool, next: bool| B256::from(U256::from(u16::from(low) | (u16::from(next) << 8)));
        let [compose_hashes, switches, devices, tcb] = self.first;
        let disabled =
            [false, true].into_iter().find(|disabled| switches == flags(*disabled, says.allow_any_device))?;
        let is_as_expected = compose_hashes.is_zero()
            && devices.is_zero()
            && tcb == flags(says.require_tcb_up_to_date, false)
            && self.owner == says.owner.into_word();
        is_as_expected.then_some(disabled)
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::keccak256;

    use super::*;

    fn word(number: u64) -> B256 {
        U256::from(number).into()
    }

    #[test]
    fn slots_are_the_namespaces_own() {
        let inner = U256::from_be_bytes(keccak256("openzeppelin.storage.Ownable").0) - U256::from(1);
        let slot = U256::from_be_bytes(keccak256(inner.to_be_bytes::<32>()).0) & !U256::from(0xff);
        assert_eq!(U256::from_be_bytes(OWNER_SLOT.0), slot);
    }

    #[test]
    fn a_dstack_apps_storage_is_told_from_others() {
        let owner = Address::repeat_byte(0xaa);
        let says = |allow_any_device, require_tcb_up_to_date| Says { owner, allow_any_device, require_tcb_up_to_date };
        let stored = |first: [u64; SLOTS]| Stored { first: first.map(word), owner: owner.into_word() };
        let found = |first, says| stored(first).upgrades_disabled(&says);
        assert_eq!(found([0, 0, 0, 0], says(false, false)), Some(false));
        assert_eq!(found([0, 0x0100, 0, 1], says(true, true)), Some(false));
        assert_eq!(found([0, 0x0001, 0, 0], says(false, false)), Some(true));
        assert_eq!(found([0, 0x0101, 0, 0], says(true, false)), Some(true));
        // Of before July 2025: the app id, compose hashes, switches, devices.
        assert_eq!(found([0xcc, 0, 0x0100, 0], says(true, false)), None);
        assert_eq!(found([0xcc, 0, 0, 0], says(false, false)), None);
        for first in [[0, 0x0100, 0, 0], [0, 2, 0, 0], [0, 1 << 16, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0x100]]
        {
            assert_eq!(found(first, says(false, false)), None, "{first:x?}");
        }
        // OpenZeppelin 4 has the owner among the first slots.
        let elsewhere = Stored { owner: B256::ZERO, ..stored([0, 0, 0, 0]) };
        assert_eq!(elsewhere.upgrades_disabled(&says(false, false)), None);
    }
}
