//! `meshctl device`: on which machines CVMs may boot, by dstack device id. The boot gate is asked by dstack's KMS.

use alloy_primitives::B256;
use alloy_sol_types::SolEvent as _;
use clap::Subcommand;
use mesh_contract::DstackClusterNFT::{
    DeviceAdded, addDeviceCall, allowedDeviceIdsCall, removeDeviceCall, setAllowAnyDeviceCall,
};
use serde::Serialize;

use super::{
    boot_list::{self, ListArgs},
    change::change_cluster,
    config::SwitchArgs,
};
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

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
        Verb::Add(DeviceArgs { device_id, key }) => {
            let device_id = *device_id;
            let report =
                (Changed { device_id, allowed: true }, format!("device {device_id} is allowed: CVMs may boot on it"));
            let call = addDeviceCall { deviceId: device_id };
            change_cluster(settings, key, printer, format!("allow device {device_id}"), call, report).await
        }
        Verb::Remove(DeviceArgs { device_id, key }) => {
            let device_id = *device_id;
            let text =
                format!("device {device_id} is removed: CVMs do not boot on it again, unless any device is allowed");
            let report = (Changed { device_id, allowed: false }, text);
            let call = removeDeviceCall { deviceId: device_id };
            change_cluster(settings, key, printer, format!("remove device {device_id}"), call, report).await
        }
        Verb::List(args) => {
            let allowed = |device| allowedDeviceIdsCall { deviceId: device };
            boot_list::list(args, settings, printer, "DEVICE ID", DeviceAdded::SIGNATURE_HASH, allowed).await
        }
        Verb::AllowAny(SwitchArgs { state, key }) => {
            let allow_any = state.is_on();
            let (what, text) = if allow_any {
                ("allow any device", "CVMs may boot on any device")
            } else {
                ("allow listed devices alone", "CVMs boot on listed devices alone: see `meshctl device list`")
            };
            let report = (AllowAny { allow_any_device: allow_any }, text.to_owned());
            change_cluster(settings, key, printer, what, setAllowAnyDeviceCall { allowAny: allow_any }, report).await
        }
    }
}
