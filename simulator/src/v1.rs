//! The guest API v1 of dstack 0.6: the calls of `dstack.sock` below `/v1`, and of the Worker below `/prpc/v1`.

mod messages;

use crate::instance::{CallError, Instance};
use crate::keys::v1::Algorithm;
pub(crate) use messages::{AttestGpuRequest, AttestRequest, GetKeyRequest};
use messages::{AttestGpuResponse, AttestResponse, GetKeyResponse, HealthResponse, InfoResponse};

/// What AttestGpu takes, bytes.
const NONCE_LENGTH: usize = 32;

pub(crate) fn get_key(instance: &Instance, request: &GetKeyRequest) -> Result<GetKeyResponse, CallError> {
    let algorithm: Algorithm = request.algorithm.parse()?;
    let app_key = instance.app_key();
    let key = app_key.derive_v1(&request.domain, algorithm);
    let public_key = algorithm.public_key(&key).map_err(|_| CallError::Scalar)?;
    let vouched = app_key.vouch_v1(&request.domain, algorithm, &public_key).to_vec();
    Ok(GetKeyResponse { key: key.to_vec(), public_key, signature_chain: vec![vouched, app_key.issued().to_vec()] })
}

/// This CVM has no GPU, so that there is no evidence of one.
pub(crate) fn attest(instance: &Instance, request: &AttestRequest) -> Result<AttestResponse, CallError> {
    // v0 fails for the same reason alone, and writes it otherwise.
    let too_long = |_| CallError::Other("report data is too long".to_owned());
    let v0 = instance.attest(&request.report_data).map_err(too_long)?;
    Ok(AttestResponse { attestation: v0.attestation, boottime_gpu_evidence: Vec::new() })
}

pub(crate) fn attest_gpu(request: &AttestGpuRequest) -> Result<AttestGpuResponse, CallError> {
    match request.nonce.len() {
        NONCE_LENGTH => Err(CallError::NoGpu),
        length => Err(CallError::Nonce(length)),
    }
}

/// As the application is told it, or as others are, from whom its documents may be hidden.
pub(crate) fn info(instance: &Instance, hide_documents: bool) -> Result<InfoResponse, CallError> {
    let v0 = instance.info()?;
    let document = |text: &str| if hide_documents { String::new() } else { text.to_owned() };
    Ok(InfoResponse {
        app_compose: document(&instance.app.compose.text),
        vm_config: document(&v0.vm_config),
        key_provider_info: document(&v0.key_provider_info),
        app_id: v0.app_id,
        app_name: v0.app_name,
        compose_hash: v0.compose_hash,
        instance_id: v0.instance_id,
        device_id: v0.device_id,
        os_image_hash: v0.os_image_hash,
        mr_aggregated: v0.mr_aggregated,
        cloud_vendor: v0.cloud_vendor,
        cloud_product: v0.cloud_product,
    })
}

/// No app asks for health checks here, and one that does not is healthy.
pub(crate) fn health() -> HealthResponse {
    HealthResponse { healthy: true, unhealthy: Vec::new(), error: String::new() }
}
