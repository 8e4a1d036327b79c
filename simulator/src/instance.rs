//! One CVM of one app: its identity, its measurements and what the guest agent answers for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hyper::StatusCode;
use k256::ecdsa::SigningKey;
use p256::SecretKey;
use p256::pkcs8::EncodePrivateKey as _;
use serde_json::json;
use sha2::{Digest as _, Sha256, Sha512};

use crate::certificate::{Authority, CertificateError, Leaf, public_key_der, random_key};
use crate::compose::Compose;
use crate::events::{EventLog, scale_bytes};
use crate::fault::Faults;
use crate::guest_api::GuestApi;
use crate::keys::v1::UnknownAlgorithm;
use crate::keys::{AppId, AppKey, InvalidKey, KmsRoot, keccak256};
use crate::quote::TdReport;
use crate::wire::{
    AppInfo, AttestResponse, GetKeyResponse, GetQuoteResponse, GetTlsKeyArgs, GetTlsKeyResponse, VersionResponse,
};

/// Bytes that name one CVM: it survives restarts, and no two instances share it.
pub type InstanceId = [u8; 20];

/// What Info reports as `cloud_vendor`: the machine-readable mark of a simulated agent.
pub const CLOUD_VENDOR: &str = "SIMULATED";

/// Why a call failed; the text is the client's `error`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("Unsupported algorithm: `{0}`; use secp256k1 or ed25519")]
    Algorithm(String),
    #[error("Report data is too long")]
    ReportData,
    #[error("Pre-hashed signing requires a 32-byte digest, but received {0} bytes")]
    Digest(usize),
    #[error("invalid public key")]
    PublicKey,
    #[error("invalid signature: 64 bytes r ‖ s expected")]
    Signature,
    #[error("failed to derive a key from this path; use another path")]
    Derive,
    #[error("Service not found: {0}")]
    Method(String),
    #[error(
        "EmitEvent was removed in dstack 0.6.0; runtime RTMR3 events are system-owned and cannot be extended by apps"
    )]
    NoEvents,
    #[error(transparent)]
    AlgorithmV1(#[from] UnknownAlgorithm),
    #[error("derived secp256k1 key is not a valid scalar")]
    Scalar,
    #[error("GPU attestation failed: nonce must be exactly 32 bytes, got {0}")]
    Nonce(usize),
    #[error("GPU attestation failed: GPU attestation is not available in this image")]
    NoGpu,
    #[error("failed to read data: payload too large")]
    TooLarge,
    #[error("failed to issue the certificate: {0}")]
    Certificate(#[from] CertificateError),
    #[error("{0}")]
    Other(String),
}

impl CallError {
    /// HTTP's status for it: dstack 0.5 knows but one.
    pub(crate) fn status(&self, api: GuestApi) -> StatusCode {
        match (api, self) {
            (GuestApi::Dstack06, Self::Method(_)) => StatusCode::NOT_FOUND,
            (GuestApi::Dstack06, Self::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            (GuestApi::Dstack06, Self::NoGpu) => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// What all instances of one app share.
pub(crate) struct App {
    pub(crate) id: AppId,
    key: AppKey,
    /// Signed by a root that is not the announced one, for the wrong-root failure.
    forged: AppKey,
    authority: Authority,
    pub(crate) compose: Compose,
}

impl App {
    pub(crate) fn new(id: AppId, key: AppKey, authority: Authority) -> Result<Self, InvalidKey> {
        let public_key = key.verifying_key().to_encoded_point(true);
        let stranger = KmsRoot::from_scalar(&keccak256(&[b"SIMULATED wrong root", public_key.as_bytes()]))?;
        let forged = key.with_issued(stranger.vouch(&id, key.verifying_key()).to_vec());
        Ok(Self { id, key, forged, authority, compose: Compose::simulated() })
    }
}

/// One running CVM, as its guest agent sees it.
pub(crate) struct Instance {
    pub(crate) app: Arc<App>,
    pub(crate) id: InstanceId,
    api: GuestApi,
    faults: RwLock<Faults>,
    log: Mutex<EventLog>,
    certificate: String,
    vm_config: String,
}

impl Instance {
    pub(crate) fn boot(app: Arc<App>, id: InstanceId, api: GuestApi, faults: Faults) -> Result<Self, CallError> {
        let os_image_hash = os_image_hash();
        let vm_config = json!({"simulated": true, "os_image_hash": hex::encode(os_image_hash)}).to_string();
        let mut instance = Self {
            log: Mutex::new(EventLog::booted()),
            faults: RwLock::new(faults),
            certificate: String::new(),
            vm_config,
            app,
            id,
            api,
        };
        let provider = instance.key_provider()?;
        for (name, payload) in [
            ("system-preparing", &b""[..]),
            ("app-id", &instance.app.id),
            ("compose-hash", &instance.app.compose.hash),
            ("instance-id", &instance.id),
            ("boot-mr-done", b""),
            ("os-image-hash", &os_image_hash),
            ("key-provider", provider.as_bytes()),
            ("storage-fs", b"zfs"),
            ("system-ready", b""),
        ] {
            instance.extend(name, payload)?;
        }
        let leaf = Leaf { subject: "demo-cert", client_auth: true, ..instance.leaf() };
        instance.certificate = instance.issue(&random_key(), leaf, true)?.join("\n");
        Ok(instance)
    }

    pub(crate) fn api(&self) -> GuestApi {
        self.api
    }

    pub(crate) fn faults(&self) -> Faults {
        *self.faults.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.faults.write().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// The app key with the KMS signature this instance shows.
    pub(crate) fn app_key(&self) -> AppKey {
        let faults = self.faults();
        if faults.no_kms {
            self.app.key.with_issued(Vec::new())
        } else if faults.wrong_root {
            self.app.forged.clone()
        } else {
            self.app.key.clone()
        }
    }

    pub(crate) fn get_key(&self, path: &[u8], purpose: &str, algorithm: &str) -> Result<GetKeyResponse, CallError> {
        let app_key = self.app_key();
        let key = app_key.derive(path);
        let public_key = match algorithm {
            "" | "secp256k1" | "k256" => {
                let key = SigningKey::from_slice(key.as_ref()).map_err(|_| CallError::Derive)?;
                key.verifying_key().to_encoded_point(true).as_bytes().to_vec()
            }
            "ed25519" => ed25519_dalek::SigningKey::from_bytes(&key).verifying_key().to_bytes().to_vec(),
            other => return Err(CallError::Algorithm(other.to_owned())),
        };
        let vouched = app_key.vouch(purpose, &public_key).to_vec();
        Ok(GetKeyResponse { key: key.to_vec(), signature_chain: vec![vouched, app_key.issued().to_vec()] })
    }

    pub(crate) fn get_tls_key(&self, args: &GetTlsKeyArgs) -> Result<GetTlsKeyResponse, CallError> {
        let leaf = Leaf {
            subject: &args.subject,
            alt_names: &args.alt_names,
            server_auth: args.usage_server_auth,
            client_auth: args.usage_client_auth,
            not_before: args.not_before,
            not_after: args.not_after,
            ..self.leaf()
        };
        self.tls_key(&random_key(), leaf, args.usage_ra_tls)
    }

    pub(crate) fn tls_key(
        &self,
        key: &SecretKey,
        leaf: Leaf<'_>,
        ra_tls: bool,
    ) -> Result<GetTlsKeyResponse, CallError> {
        let certificate_chain = self.issue(key, leaf, ra_tls)?;
        let pem = key.to_pkcs8_pem(p256::pkcs8::LineEnding::LF).map_err(|_| CallError::Derive)?;
        Ok(GetTlsKeyResponse { key: pem.to_string(), certificate_chain })
    }

    /// A leaf for this app, with nothing in it yet.
    pub(crate) fn leaf(&self) -> Leaf<'_> {
        Leaf { app_id: &self.app.id, ..Leaf::default() }
    }

    fn issue(&self, key: &SecretKey, mut leaf: Leaf<'_>, ra_tls: bool) -> Result<Vec<String>, CallError> {
        if ra_tls {
            let report_data = Sha512::new().chain_update("ratls-cert:").chain_update(public_key_der(key)?);
            let (quote, event_log) = self.quote(&report_data.finalize().into());
            leaf.attestation = Some((quote, event_log));
        }
        Ok(self.app.authority.issue(key, &leaf)?)
    }

    pub(crate) fn get_quote(&self, report_data: &[u8]) -> Result<GetQuoteResponse, CallError> {
        let report_data = padded(report_data)?;
        let (quote, event_log) = self.quote(&report_data);
        let vm_config = self.vm_config.clone();
        Ok(GetQuoteResponse { quote, event_log, report_data: report_data.to_vec(), vm_config })
    }

    /// The quote and the event log it replays from, taken together.
    fn quote(&self, report_data: &[u8; 64]) -> (Vec<u8>, String) {
        let log = self.log();
        let report = TdReport::new(&self.app.compose.hash, log.replay());
        (report.quote(report_data), log.to_json())
    }

    /// dstack's versioned attestation (SCALE): version 0, variant 0 = TDX, quote, events, report data, VM configuration.
    pub(crate) fn attest(&self, report_data: &[u8]) -> Result<AttestResponse, CallError> {
        let report_data = padded(report_data)?;
        let log = self.log();
        let report = TdReport::new(&self.app.compose.hash, log.replay());
        let mut attestation = vec![0, 0];
        attestation.extend(scale_bytes(&report.quote(&report_data)));
        attestation.extend(log.to_scale());
        attestation.extend(log.runtime_to_scale());
        attestation.extend(report_data);
        attestation.extend(scale_bytes(self.vm_config.as_bytes()));
        Ok(AttestResponse { attestation })
    }

    pub(crate) fn emit_event(&self, event: &str, payload: &[u8]) -> Result<(), CallError> {
        match self.api {
            GuestApi::Dstack05 => self.extend(event, payload),
            GuestApi::Dstack06 => Err(CallError::NoEvents),
        }
    }

    fn extend(&self, event: &str, payload: &[u8]) -> Result<(), CallError> {
        self.log().emit(event, payload).map_err(CallError::Other)
    }

    pub(crate) fn info(&self) -> Result<AppInfo, CallError> {
        let log = self.log();
        let report = TdReport::new(&self.app.compose.hash, log.replay());
        let [rtmr0, rtmr1, rtmr2, rtmr3] = report.rtmrs.map(hex::encode);
        let aggregated: [u8; 32] = Sha256::new()
            .chain_update(report.mrtd)
            .chain_update(report.rtmrs.as_flattened())
            .chain_update(report.mr_config_id)
            .chain_update([0; 96]) // MROWNER, MROWNERCONFIG
            .finalize()
            .into();
        let device_id: [u8; 32] = Sha256::digest(b"").into();
        let tcb_info = json!({
            "mrtd": hex::encode(report.mrtd),
            "rtmr0": rtmr0,
            "rtmr1": rtmr1,
            "rtmr2": rtmr2,
            "rtmr3": rtmr3,
            "mr_aggregated": hex::encode(aggregated),
            "os_image_hash": hex::encode(os_image_hash()),
            "compose_hash": hex::encode(self.app.compose.hash),
            "device_id": hex::encode(device_id),
            "event_log": log.events(),
            "app_compose": self.app.compose.text,
        });
        Ok(AppInfo {
            app_id: self.app.id.to_vec(),
            instance_id: self.id.to_vec(),
            app_cert: self.certificate.clone(),
            tcb_info: format!("{tcb_info:#}"),
            app_name: "SIMULATED".to_owned(),
            device_id: device_id.to_vec(),
            mr_aggregated: aggregated.to_vec(),
            os_image_hash: os_image_hash().to_vec(),
            key_provider_info: self.key_provider()?,
            compose_hash: self.app.compose.hash.to_vec(),
            vm_config: self.vm_config.clone(),
            cloud_vendor: CLOUD_VENDOR.to_owned(),
            cloud_product: "dstack-simulator".to_owned(),
        })
    }

    pub(crate) fn version(&self) -> VersionResponse {
        VersionResponse {
            version: self.api.version().to_owned(),
            rev: concat!("dstack-simulator ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    fn log(&self) -> MutexGuard<'_, EventLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key_provider(&self) -> Result<String, CallError> {
        let id = hex::encode(self.app.authority.public_key()?);
        let name = if self.faults().no_kms { "none" } else { "kms" };
        Ok(json!({"name": name, "id": id}).to_string())
    }
}

fn os_image_hash() -> [u8; 32] {
    Sha256::digest(b"SIMULATED dstack OS image").into()
}

fn padded(report_data: &[u8]) -> Result<[u8; 64], CallError> {
    let mut out = [0; 64];
    out.get_mut(..report_data.len()).ok_or(CallError::ReportData)?.copy_from_slice(report_data);
    Ok(out)
}
