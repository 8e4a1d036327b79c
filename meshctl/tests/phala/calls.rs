//! The calls of the stand-in: shapes, orders and refusals of the published interface.

use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_sol_types::{SolCall as _, sol};
use mesh_contract::DstackClusterNFT::{allowedComposeHashesCall, ownerCall};
use serde_json::{Value, json};
use x25519_dalek::PublicKey;

use crate::{
    cloud::{DEVICE, Fault, HOST, NODE, Reply, Request, State, Vm, refuse},
    document::{hash_of, written},
    inside::{env_secret, open},
    kms,
    world::{KMS, World, sign, signer},
};

sol! {
    struct AppBootInfo {
        address appId;
        bytes32 composeHash;
        address instanceId;
        bytes32 deviceId;
        bytes32 mrAggregated;
        bytes32 mrSystem;
        bytes32 osImageHash;
        string tcbStatus;
        string[] advisoryIds;
    }
    function isAppAllowed(AppBootInfo bootInfo) external view returns (bool isAllowed, string reason);
    function registeredApps(address appId) external view returns (bool);
}

/// Commits what waits for its compose hash to be allowed.
const TOKEN: &str = "T0KENS3CRET";

pub(crate) fn answer(state: &mut State, request: &Request, path: &str) -> Reply {
    let parts: Vec<&str> = path.split(['/', '?']).skip(1).collect();
    match (request.method.as_str(), &parts[..]) {
        ("POST", ["cvms", "provision"]) => provision(state, &request.body),
        ("POST", ["cvms"]) => create(state, &request.body),
        ("POST", ["apps", app, "instances"]) if is_app(state, app) => add_instance(state, &request.body),
        ("GET", ["apps", app, "cvms"]) if is_app(state, app) => list(state),
        ("GET", ["kms", "base-test", "pubkey", app]) if is_app(state, app) => pubkey(state),
        ("GET", ["kms", ..]) => {
            Reply::Json(200, json!({ "items": [kms_info(state)], "total": 1, "page": 1, "page_size": 100, "pages": 1 }))
        }
        ("GET", ["cvms", uuid, "firewall-status"]) if state.vm(uuid).is_some() => {
            let available = state.fault != Some(Fault::NoPorts);
            Reply::Json(200, json!({ "available": available, "reason": null }))
        }
        ("GET", ["cvms", uuid, "ports"]) => of_vm(state, uuid, |vm| Reply::Json(200, ports(vm))),
        ("PUT", ["cvms", uuid, "ports"]) => {
            if let Some(reply) = unknown_field(&request.body, &["ports"]) {
                return reply;
            }
            of_vm(state, uuid, |vm| map(vm, &request.body))
        }
        ("PATCH", ["cvms", uuid, "envs"]) => {
            if let Some(reply) =
                unknown_field(&request.body, &["encrypted_env", "env_keys", "compose_hash", "transaction_hash"])
            {
                return reply;
            }
            of_vm(state, uuid, |vm| set_environment(vm, &request.body))
        }
        ("PATCH", ["cvms", uuid]) if state.vm(uuid).is_some() => update(state, uuid, request),
        ("DELETE", ["cvms", uuid]) => of_vm(state, uuid, |vm| {
            (vm.status, vm.busy_for) = ("deleting", 1);
            Reply::Json(204, Value::Null)
        }),
        _ => refuse(404, "ERR-03-001", "Not found"),
    }
}

fn is_app(state: &State, app: &str) -> bool {
    app.trim_start_matches("0x") == state.world().contract.trim_start_matches("0x").to_lowercase()
}

fn of_vm(state: &mut State, uuid: &str, answer: impl FnOnce(&mut Vm) -> Reply) -> Reply {
    match state.vm(uuid) {
        Some(vm) => answer(vm),
        None => refuse(404, "ERR-03-001", "CVM not found"),
    }
}

/// FastAPI's answer to a field that is in no schema. The real one overlooks some; none must be sent.
fn unknown_field(body: &Value, known: &[&str]) -> Option<Reply> {
    let unknown = body.as_object()?.keys().find(|name| !known.contains(&name.as_str()))?;
    let detail =
        json!([{ "loc": ["body", unknown], "msg": "Extra inputs are not permitted", "type": "extra_forbidden" }]);
    Some(Reply::Json(422, json!({ "detail": detail })))
}

fn provision(state: &mut State, body: &Value) -> Reply {
    let known = [
        "name",
        "compose_file",
        "kms",
        "instance_type",
        "env_keys",
        "listed",
        "prefer_dev",
        "teepod_id",
        "image",
        "disk_size",
    ];
    let of_compose = [
        "manifest_version",
        "name",
        "runner",
        "docker_compose_file",
        "pre_launch_script",
        "allowed_envs",
        "kms_enabled",
        "gateway_enabled",
        "no_instance_id",
        "public_logs",
        "public_sysinfo",
        "public_tcbinfo",
        "secure_time",
        "storage_fs",
    ];
    let unknown = unknown_field(body, &known).or_else(|| unknown_field(&body["compose_file"], &of_compose));
    if let Some(reply) = unknown {
        return reply;
    }
    let name = body["name"].as_str().unwrap();
    if !(5..=63).contains(&name.len()) || body["kms"] != "BASE" {
        return refuse(400, "ERR-01-001", "name or KMS");
    }
    if state.vms.iter().any(|vm| vm.name == name) {
        return refuse(409, "ERR-01-004", "The name is taken");
    }
    let mut document = written(&body["compose_file"]);
    if state.fault == Some(Fault::OtherDocument) {
        let text = document["docker_compose_file"].as_str().unwrap().to_owned();
        document["docker_compose_file"] = json!(text + "  evil:\n    image: evil\n");
    }
    let hash = hex::encode(hash_of(&document));
    state.provisioned.insert(hash.clone(), json!({ "document": document, "name": name }));
    Reply::Json(
        200,
        json!({
            "app_id": null, "app_env_encrypt_pubkey": null, "compose_hash": hash, "kms_info": kms_info(state), "fmspc": "00",
            "device_id": hex::encode(DEVICE), "os_image_hash": "11".repeat(32), "instance_type": body["instance_type"],
            "teepod_id": NODE, "kms_id": "kms_test"
        }),
    )
}

fn kms_info(state: &State) -> Value {
    let contract = if state.fault == Some(Fault::OtherKms) { kms::OTHER } else { state.kms.as_str() };
    json!({
        "id": "kms_test", "slug": "base-test", "url": "https://kms.example", "version": "0.5.7", "chain_id": 31337,
        "kms_contract_address": contract, "gateway_app_id": null
    })
}

fn call(world: &World, to: &str, data: Vec<u8>) -> Bytes {
    let answer = world.anvil.rpc("eth_call", json!([{ "to": to, "data": Bytes::from(data) }, "latest"]));
    answer.as_str().unwrap().parse().unwrap()
}

fn is_allowed(world: &World, hash: B256) -> bool {
    let answer = call(world, &world.contract, allowedComposeHashesCall { composeHash: hash }.abi_encode());
    allowedComposeHashesCall::abi_decode_returns(&answer).unwrap()
}

/// What the KMS asks before it gives a CVM its keys.
pub(crate) fn boot_gate(world: &World, compose_hash: B256, device_id: B256) -> bool {
    let info = AppBootInfo {
        appId: world.contract.parse().unwrap(),
        composeHash: compose_hash,
        instanceId: Address::ZERO,
        deviceId: device_id,
        mrAggregated: B256::ZERO,
        mrSystem: B256::ZERO,
        osImageHash: B256::ZERO,
        tcbStatus: "UpToDate".to_owned(),
        advisoryIds: Vec::new(),
    };
    let answer = call(world, &world.contract, isAppAllowedCall { bootInfo: info }.abi_encode());
    isAppAllowedCall::abi_decode_returns(&answer).unwrap().isAllowed
}

fn create(state: &mut State, body: &Value) -> Reply {
    let known =
        ["app_id", "compose_hash", "encrypted_env", "kms_id", "contract_address", "deployer_address", "env_keys"];
    if let Some(reply) = unknown_field(body, &known) {
        return reply;
    }
    let hash = body["compose_hash"].as_str().unwrap();
    let Some(cached) = state.provisioned.get(hash).cloned() else {
        return refuse(466, "ERR-01-006", "No such provision");
    };
    if !state.vms.is_empty() {
        return refuse(409, "ERR-03-007", "The app has another configuration");
    }
    let world = &state.world();
    let owner = call(world, &world.contract, ownerCall {}.abi_encode());
    let owner = ownerCall::abi_decode_returns(&owner).unwrap();
    let contract: Address = world.contract.parse().unwrap();
    let registered = call(world, &state.kms, registeredAppsCall { appId: contract }.abi_encode());
    let same = |name: &str, address: Address| body[name].as_str().unwrap().parse::<Address>() == Ok(address);
    if !same("app_id", contract) || !same("contract_address", contract) || !same("deployer_address", owner) {
        return refuse(400, "ERR-01-001", "contract or deployer does not match");
    }
    if !registeredAppsCall::abi_decode_returns(&registered).unwrap() {
        return refuse(400, "ERR-01-001", "no app of the KMS");
    }
    if !is_allowed(world, hash.parse().unwrap()) {
        return refuse(468, "ERR-01-008", "The compose hash is not allowed");
    }
    if let Some((status, code)) = state.refused {
        return refuse(status, code, "Refused");
    }
    let name = cached["name"].as_str().unwrap().to_owned();
    made(state, name, cached["document"].clone(), body)
}

fn made(state: &mut State, name: String, document: Value, body: &Value) -> Reply {
    let env = body["encrypted_env"].as_str().unwrap().to_owned();
    if open(&env).is_none() {
        return refuse(400, "ERR-01-001", "encrypted_env");
    }
    let is_silent = state.fault == Some(Fault::SilentCreation);
    let contract = state.world().contract.clone();
    let vm = state.make(name, document, env);
    if is_silent {
        return Reply::Close;
    }
    Reply::Json(
        200,
        json!({
            "id": vm.byte, "name": vm.name, "status": "creating", "teepod_id": NODE, "teepod": { "id": NODE, "name": "prod7" },
            "user_id": 1, "app_id": contract.trim_start_matches("0x"), "vm_uuid": null, "instance_id": null,
            "base_image": "dstack-0.5.8", "vcpu": 1, "memory": 2048, "disk_size": 20, "docker_compose_file": null,
            "created_at": "2026-11-25T00:00:00Z"
        }),
    )
}

fn add_instance(state: &mut State, body: &Value) -> Reply {
    if let Some(reply) = unknown_field(body, &["node_id", "compose_hash", "encrypted_env", "token", "transaction_hash"])
    {
        return reply;
    }
    if !state.vms.iter().any(|vm| vm.status == "running") {
        return refuse(400, "ERR-03-002", "No template instance");
    }
    let hash: B256 = body["compose_hash"].as_str().unwrap().parse().unwrap();
    let Some(template) = state.vms.iter().find(|vm| hash_of(&vm.document) == hash) else {
        return refuse(466, "ERR-01-006", "No such compose hash");
    };
    let document = template.document.clone();
    let token = body["token"].as_str();
    let is_first_step = state.fault == Some(Fault::TwoSteps) && token.is_none();
    if is_first_step || !is_allowed(&state.world(), hash) || token.is_some_and(|token| token != TOKEN) {
        return register_first(state, hash);
    }
    if token.is_some() && !is_shown_by(&state.world(), body["transaction_hash"].as_str().unwrap_or_default(), hash) {
        return refuse(467, "ERR-01-007", "The transaction does not show it");
    }
    match state.refused {
        Some((465, _)) => return register_first(state, hash),
        Some((status, code)) => return refuse(status, code, "Refused"),
        None => {}
    }
    let name = format!("{}-r{}", template.name.trim_end_matches(|c: char| c.is_control()), state.vms.len());
    made(state, name, document, body)
}

fn register_first(state: &State, hash: B256) -> Reply {
    let details = json!([
        { "field": "compose_hash", "value": hex::encode(hash) },
        { "field": "app_id", "value": state.world().contract },
        { "field": "device_id", "value": hex::encode(DEVICE) },
        { "field": "kms_info", "value": kms_info(state) },
        { "field": "commit_token", "value": TOKEN },
    ]);
    let message = "Compose hash registration required on-chain";
    Reply::Json(
        465,
        json!({ "error_code": "ERR-01-005", "message": message, "details": details, "suggestions": [], "links": [] }),
    )
}

fn list(state: &mut State) -> Reply {
    if state.fault == Some(Fault::Flood) {
        return Reply::Flood;
    }
    state.go_on();
    let app = state.world().contract.trim_start_matches("0x").to_lowercase();
    let mut cvms: Vec<_> = state.vms.iter().map(|vm| shown(vm, &app)).collect();
    if state.fault == Some(Fault::ShiftingInstances) {
        cvms.iter_mut().for_each(|cvm| cvm["instance_id"] = json!(hex::encode([0x80 ^ state.lists; 20])));
    }
    Reply::Json(200, json!(cvms))
}

fn shown(vm: &Vm, app: &str) -> Value {
    let instance = (vm.status != "starting").then(|| hex::encode([vm.byte; 20]));
    json!({
        "id": format!("cvm_{:02x}", vm.byte), "name": vm.name, "app_id": app, "vm_uuid": vm.uuid, "instance_id": instance,
        "resource": { "instance_type": "tdx.small" }, "node_info": { "object_type": "node", "id": NODE, "name": "prod7" },
        "status": vm.status, "in_progress": vm.busy_for > 0, "compose_hash": hex::encode(hash_of(&vm.document)),
        "gateway": { "base_domain": "dstack-pha-prod7.phala.network", "cname": null }, "services": []
    })
}

fn pubkey(state: &State) -> Reply {
    let public = PublicKey::from(&env_secret()).to_bytes();
    let app: Address = state.world().contract.parse().unwrap();
    let signed = keccak256([b"dstack-env-encrypt-pubkey:".as_slice(), app.as_slice(), &public].concat());
    let key = if state.fault == Some(Fault::WrongSignature) { [9; 32] } else { KMS };
    let signature = sign(&signer(key), signed);
    Reply::Json(200, json!({ "public_key": hex::encode(public), "signature": hex::encode(signature) }))
}

fn ports(vm: &Vm) -> Value {
    let mapping = |(vm_port, host_port): (u16, u16)| json!({ "id": "pm_1", "host_port": host_port, "vm_port": vm_port, "protocol": "udp", "host_address": "0.0.0.0", "public_host": HOST });
    json!(vm.udp.into_iter().map(mapping).collect::<Vec<_>>())
}

fn map(vm: &mut Vm, body: &Value) -> Reply {
    let [entry] = &body["ports"].as_array().unwrap()[..] else { return refuse(400, "ERR-01-001", "ports") };
    if let Some(reply) = unknown_field(entry, &["vm_port", "protocol"]) {
        return reply;
    }
    let port = u16::try_from(entry["vm_port"].as_u64().unwrap()).unwrap();
    vm.udp = Some((port, 31_000 + u16::from(vm.byte)));
    Reply::Json(200, ports(vm))
}

fn set_environment(vm: &mut Vm, body: &Value) -> Reply {
    if vm.busy_for > 0 {
        return refuse(409, "ERR-03-010", "Another operation in progress");
    }
    vm.encrypted_env = body["encrypted_env"].as_str().unwrap().to_owned();
    (vm.status, vm.busy_for) = ("updating", 1);
    Reply::Json(202, json!({ "correlation_id": "c", "allowed_envs_changed": false }))
}

fn update(state: &mut State, uuid: &str, request: &Request) -> Reply {
    let known = [
        "docker_compose_file",
        "pre_launch_script",
        "allowed_envs",
        "public_logs",
        "public_sysinfo",
        "public_tcbinfo",
        "encrypted_env",
    ];
    if let Some(reply) = unknown_field(&request.body, &known) {
        return reply;
    }
    if state.vm(uuid).unwrap().busy_for > 0 {
        return refuse(409, "ERR-03-010", "Another operation in progress");
    }
    let fields = match (request.header("x-compose-hash"), state.prepared.get(uuid).cloned()) {
        (None, _) => request.body.clone(),
        (Some(_), None) => return refuse(466, "ERR-01-006", "Nothing is prepared"),
        (Some(hash), Some(prepared)) if prepared["hash"] != hash => return refuse(466, "ERR-01-006", "Another hash"),
        (Some(hash), Some(prepared)) => {
            let hash: B256 = hash.parse().unwrap();
            if !is_allowed(&state.world(), hash) {
                return refuse(468, "ERR-01-008", "The compose hash is not allowed");
            }
            if let Some((status, code)) = state.refused {
                return refuse(status, code, "Refused");
            }
            if !is_shown_by(&state.world(), request.header("x-transaction-hash").unwrap_or_default(), hash) {
                return refuse(467, "ERR-01-007", "The transaction does not show it");
            }
            prepared["body"].clone()
        }
    };
    let mut document = state.vm(uuid).unwrap().document.clone();
    for (name, value) in fields.as_object().unwrap().iter().filter(|(name, _)| *name != "encrypted_env") {
        document[name] = value.clone();
    }
    if state.fault == Some(Fault::OtherDocument) {
        document["docker_compose_file"] = json!("services:\n  evil:\n    image: evil\n");
    }
    let hash = hash_of(&document);
    if !is_allowed(&state.world(), hash) {
        state.prepared.insert(uuid.to_owned(), json!({ "hash": hex::encode(hash), "body": fields }));
        return register_first(state, hash);
    }
    let vm = state.vm(uuid).unwrap();
    vm.document = document;
    if let Some(env) = fields["encrypted_env"].as_str() {
        env.clone_into(&mut vm.encrypted_env);
    }
    (vm.status, vm.busy_for) = ("updating", 2);
    let at_once = state.vms.iter().filter(|vm| vm.status == "updating").count();
    state.updating_at_once = state.updating_at_once.max(at_once);
    Reply::Json(202, json!({ "correlation_id": "c" }))
}

/// Whether a transaction has allowed this hash, or it was allowed before.
fn is_shown_by(world: &World, transaction: &str, hash: B256) -> bool {
    if transaction == "already-registered" {
        return true;
    }
    let receipt = world.anvil.rpc("eth_getTransactionReceipt", json!([transaction]));
    let logs = receipt["logs"].as_array().cloned().unwrap_or_default();
    let topic = keccak256("ComposeHashAdded(bytes32)").to_string();
    logs.iter().any(|log| log["topics"][0] == json!(topic) && log["data"] == json!(hash.to_string()))
}
