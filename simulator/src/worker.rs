//! The calls of the Worker, which every CVM serves by TCP to those who can route to it: no keys, and of its documents only what
//! its app makes public.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::instance::{CallError, Instance};
use crate::signing;
use crate::wire::{AppInfo, AttestAppKeyArgs, GetQuoteResponse};

/// As the application is told it, without the documents where they are not public.
pub(crate) fn info(instance: &Instance) -> Result<AppInfo, CallError> {
    let mut info = instance.info()?;
    if !instance.app.compose.public_tcbinfo {
        info.tcb_info.clear();
        info.vm_config.clear();
    }
    Ok(info)
}

/// A quote over the key that Sign signs with.
pub(crate) fn attest_app_key(instance: &Instance, args: &AttestAppKeyArgs) -> Result<GetQuoteResponse, CallError> {
    let (algorithm, tag) = match args.algorithm.as_str() {
        "secp256k1" | "k256" | "secp256k1_prehashed" => ("secp256k1", "dip1::secp256k1c-pk:"),
        "ed25519" => ("ed25519", "dip1::ed25519-pk:"),
        other => return Err(CallError::Algorithm(other.to_owned())),
    };
    let public_key = signing::public_key(instance, algorithm)?;
    instance.get_quote(format!("{tag}{}", BASE64_URL_SAFE_NO_PAD.encode(public_key)).as_bytes())
}
