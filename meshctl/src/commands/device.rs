//! `meshctl device`: on which machines CVMs may boot, by dstack device id. The boot gate is asked by dstack's KMS.

use alloy_primitives::B256;
use alloy_sol_types::SolEvent as _;
use clap::Subcommand;
use mesh_contract::DstackClusterNFT::{
    DeviceAdded, addDeviceCall, allowAnyDeviceCall, allowedDeviceIdsCall, removeDeviceCall, setAllowAnyDeviceCall,
};
use serde::Serialize;

use super::{
    boot_list::{self, ListArgs},
    change::change,
    config::{Switch, SwitchArgs},
    leaving::nothing_to_do,
};
use crate::{
    chain::{Call, Operator},
    confirm::Consequences,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl device allow-any on")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Let CVMs boot on this machine (contract owner)
    Add(DeviceArgs),
    /// Stop the next boot on this machine (contract owner)
    Remove(DeviceArgs),
    /// List the devices that were added, and whether they are still allowed
    List(ListArgs),
    /// Whether CVMs may boot on any machine: the list is not asked then (contract owner)
    AllowAny(SwitchArgs),
}

#[derive(Debug, clap::Args)]
struct DeviceArgs {
    /// The device id, 64 hex digits, as dstack's Info shows it
    #[arg(value_name = "DEVICE_ID")]
    device_id: B256,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Changed {
    device_id: B256,
    allowed: bool,
}

#[derive(Debug, Serialize)]
struct AllowAny {
    allow_any_device: bool,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        Verb::Add(DeviceArgs { device_id, key }) => add(*device_id, key, settings, printer).await,
        Verb::Remove(DeviceArgs { device_id, key }) => remove(*device_id, key, settings, printer).await,
        Verb::List(args) => {
            let allowed = |device| allowedDeviceIdsCall { deviceId: device };
            boot_list::list(args, settings, printer, "DEVICE ID", DeviceAdded::SIGNATURE_HASH, allowed).await
        }
        Verb::AllowAny(args) => allow_any(args, settings, printer).await,
    }
}

async fn allow_any(args: &SwitchArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let allow_any = args.state.is_on();
    let (what, text, consequences) = match args.state {
        Switch::On => (
            "allow any device",
            "CVMs may boot on any device",
            Consequences::new(
                "CVMs boot on any machine: `meshctl device list` is not asked",
                "`meshctl device allow-any off`, at once; a node that has booted meanwhile keeps its keys and its place",
            ),
        ),
        Switch::Off => (
            "allow listed devices alone",
            "CVMs boot on listed devices alone: see `meshctl device list`",
            Consequences::new(
                "CVMs boot on the devices of `meshctl device list` alone: a node elsewhere is gone with its next restart",
                "`meshctl device allow-any on`, at once",
            ),
        ),
    };
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    if operator.chain.read(contract, allowAnyDeviceCall {}, None).await? == allow_any {
        return Err(nothing_to_do(format!("already so: {text}"), "meshctl config").into());
    }
    let call = setAllowAnyDeviceCall { allowAny: allow_any };
    let call = Call::function(what, contract, &call).after_asking(consequences);
    let report = (AllowAny { allow_any_device: allow_any }, text.to_owned());
    change(&operator, printer, contract, call, |_| Ok(report)).await
}

async fn add(device_id: B256, key: &SignerArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    if operator.chain.read(contract, allowedDeviceIdsCall { deviceId: device_id }, None).await? {
        return Err(nothing_to_do(format!("device {device_id} is allowed already"), "meshctl device list").into());
    }
    let call = Call::function(format!("allow device {device_id}"), contract, &addDeviceCall { deviceId: device_id });
    change(&operator, printer, contract, call, |_| {
        let text = format!("device {device_id} is allowed: CVMs may boot on it");
        Ok((Changed { device_id, allowed: true }, text))
    })
    .await
}

async fn remove(device_id: B256, key: &SignerArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, key).await?;
    if !operator.chain.read(contract, allowedDeviceIdsCall { deviceId: device_id }, None).await? {
        return Err(nothing_to_do(format!("device {device_id} is not on the list"), "meshctl device list").into());
    }
    let consequences = Consequences::new(
        "CVMs do not boot on it again, unless any device is allowed: a node there is gone with its next restart",
        format!("`meshctl device add {device_id}`, at once"),
    );
    let call =
        Call::function(format!("remove device {device_id}"), contract, &removeDeviceCall { deviceId: device_id });
    change(&operator, printer, contract, call.after_asking(consequences), |_| {
        let text = format!("device {device_id} is removed: CVMs do not boot on it again, unless any device is allowed");
        Ok((Changed { device_id, allowed: false }, text))
    })
    .await
}
