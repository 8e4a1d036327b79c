//! The calls of the API that a cluster needs, by name.

use hyper::Method;
use mesh_core::id::AppId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    answers::{self, CommitToken, Cvm, CvmId, EnvKey, KmsInfo, Mapping, NodeId, Prepared, Provisioned, parsed},
    error::ApiError,
    http::{ApiKey, Call, Http, Repeat},
};

/// Phala Cloud's API, as one workspace.
pub(crate) struct Api {
    http: Http,
}

/// What is to be made, before there is any of it.
pub(crate) struct Provision<'a> {
    pub(crate) name: &'a str,
    /// Of app-compose.json.
    pub(crate) compose_file: &'a Value,
    /// Whose key chain the CVMs get: `base` or `ethereum`.
    pub(crate) kms: &'a str,
    pub(crate) node: Option<NodeId>,
    pub(crate) instance_type: &'a str,
    pub(crate) image: Option<&'a str>,
    /// GB.
    pub(crate) disk_size: Option<u32>,
    pub(crate) env_keys: &'a [String],
}

/// What became of a change.
#[derive(Debug)]
pub(crate) enum Changed {
    /// It is under way.
    Begun,
    /// The contract is to allow this first.
    Waits(Prepared),
}

#[derive(Deserialize)]
struct Firewall {
    available: bool,
}

impl Api {
    /// `base` is a URL without its last slash.
    pub(crate) fn new(base: String, key: ApiKey) -> Self {
        Self { http: Http::new(base, key) }
    }

    /// The CVMs of an app, those that are gone left out. An app that the API does not know has none.
    pub(crate) async fn cvms(&self, app: AppId) -> Result<Vec<Cvm>, ApiError> {
        match self.http.ask(&Call::get(format!("/apps/{app}/cvms"))).await {
            Ok(answer) => answers::cvms(answer, app),
            Err(error) if error.status() == Some(404) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Has the API write app-compose.json and choose a machine. Nothing is made, and nothing is to be paid.
    pub(crate) async fn provision(&self, wanted: &Provision<'_>) -> Result<Provisioned, ApiError> {
        let mut body = json!({
            "name": wanted.name,
            "compose_file": wanted.compose_file,
            "kms": wanted.kms.to_uppercase(),
            "instance_type": wanted.instance_type,
            "env_keys": wanted.env_keys,
            "listed": false,
            "prefer_dev": false,
        });
        if let Some(NodeId(node)) = wanted.node {
            body["teepod_id"] = node.into();
        }
        if let Some(image) = wanted.image {
            body["image"] = image.into();
        }
        if let Some(disk_size) = wanted.disk_size {
            body["disk_size"] = disk_size.into();
        }
        let answer = self.http.ask(&Call::new(Method::POST, "/cvms/provision".to_owned(), body, Repeat::Safe)).await?;
        answers::provisioned(answer)
    }

    /// Makes the first CVM of an app from what was provisioned.
    pub(crate) async fn create(
        &self,
        app: AppId,
        provisioned: &Provisioned,
        encrypted_env: &str,
        deployer: alloy_primitives::Address,
    ) -> Result<(), ApiError> {
        let contract = alloy_primitives::Address::from(app.0);
        let body = json!({
            "app_id": format!("0x{app}"),
            "compose_hash": hex::encode(provisioned.compose_hash),
            "encrypted_env": encrypted_env,
            "kms_id": provisioned.kms.name,
            "contract_address": contract,
            "deployer_address": deployer,
        });
        self.http.ask(&Call::new(Method::POST, "/cvms".to_owned(), body, Repeat::Never)).await.map(drop)
    }

    /// Makes a further CVM of an app. `committed`: what an earlier attempt was told, with the hash of the transaction that has
    /// allowed it meanwhile.
    pub(crate) async fn add_instance(
        &self,
        app: AppId,
        provisioned: &Provisioned,
        encrypted_env: &str,
        committed: Option<(&CommitToken, &str)>,
    ) -> Result<Changed, ApiError> {
        let mut body = json!({
            "compose_hash": hex::encode(provisioned.compose_hash),
            "encrypted_env": encrypted_env,
        });
        if let Some(NodeId(node)) = provisioned.node {
            body["node_id"] = node.into();
        }
        if let Some((token, transaction)) = committed {
            body["token"] = token.reveal().into();
            body["transaction_hash"] = transaction.into();
        }
        let call = Call::new(Method::POST, format!("/apps/{app}/instances"), body, Repeat::Never);
        changed(self.http.ask(&call).await)
    }

    /// The KMS instances that contracts decide for.
    pub(crate) async fn kms_instances(&self) -> Result<Vec<KmsInfo>, ApiError> {
        answers::kms_list(self.http.ask(&Call::get("/kms?is_onchain=true&page_size=100".to_owned())).await?)
    }

    /// The key for the environment of an app's CVMs. Whose it is, its signature says.
    pub(crate) async fn env_key(&self, kms: &KmsInfo, app: AppId) -> Result<EnvKey, ApiError> {
        answers::env_key(self.http.ask(&Call::get(format!("/kms/{}/pubkey/{app}", kms.name))).await?)
    }

    /// Whether ports of the host can be mapped to a CVM. An API without that call has none.
    pub(crate) async fn can_map_ports(&self, cvm: &CvmId) -> Result<bool, ApiError> {
        match self.http.ask(&Call::get(format!("/cvms/{cvm}/firewall-status"))).await {
            Ok(answer) => Ok(parsed::<Firewall>(answer, "whether ports can be mapped")?.available),
            Err(error) if matches!(error.status(), Some(403 | 404 | 405 | 501)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The UDP ports that lead to a CVM.
    pub(crate) async fn udp_ports(&self, cvm: &CvmId) -> Result<Vec<Mapping>, ApiError> {
        answers::mappings(self.http.ask(&Call::get(format!("/cvms/{cvm}/ports"))).await?)
    }

    /// Replaces all mappings of a CVM by one: of UDP, to this port of it.
    pub(crate) async fn map_udp(&self, cvm: &CvmId, vm_port: u16) -> Result<(), ApiError> {
        let body = json!({ "ports": [{ "vm_port": vm_port, "protocol": "udp" }] });
        self.http.ask(&Call::new(Method::PUT, format!("/cvms/{cvm}/ports"), body, Repeat::Safe)).await.map(drop)
    }

    /// Replaces the whole environment of a CVM, which starts anew with it. Its names stay.
    pub(crate) async fn set_environment(&self, cvm: &CvmId, encrypted_env: &str) -> Result<(), ApiError> {
        let body = json!({ "encrypted_env": encrypted_env });
        self.http.ask(&Call::new(Method::PATCH, format!("/cvms/{cvm}/envs"), body, Repeat::Safe)).await.map(drop)
    }

    /// Gives a CVM another app-compose.json: the fields of it that are here, and an environment where there is one.
    pub(crate) async fn update(
        &self,
        cvm: &CvmId,
        compose_file: &Value,
        encrypted_env: Option<&str>,
    ) -> Result<Changed, ApiError> {
        let fields = [
            "docker_compose_file",
            "pre_launch_script",
            "allowed_envs",
            "public_logs",
            "public_sysinfo",
            "public_tcbinfo",
        ];
        let mut body: Value = fields.iter().map(|name| ((*name).to_owned(), compose_file[*name].clone())).collect();
        if let Some(env) = encrypted_env {
            body["encrypted_env"] = env.into();
        }
        changed(self.http.ask(&Call::new(Method::PATCH, format!("/cvms/{cvm}"), body, Repeat::Safe)).await)
    }

    /// The second half of an update: its hash is allowed, by this transaction.
    pub(crate) async fn confirm_update(
        &self,
        cvm: &CvmId,
        prepared: &Prepared,
        transaction: &str,
    ) -> Result<(), ApiError> {
        let mut call = Call::new(Method::PATCH, format!("/cvms/{cvm}"), json!({}), Repeat::Safe);
        call.headers = vec![
            ("X-Compose-Hash", hex::encode(prepared.compose_hash)),
            ("X-Transaction-Hash", transaction.to_owned()),
        ];
        self.http.ask(&call).await.map(drop)
    }

    /// Deletes a CVM and its disk. One that is gone already is.
    pub(crate) async fn delete(&self, cvm: &CvmId) -> Result<(), ApiError> {
        let call = Call {
            method: Method::DELETE,
            path: format!("/cvms/{cvm}"),
            body: None,
            headers: Vec::new(),
            repeat: Repeat::Safe,
        };
        match self.http.ask(&call).await {
            Err(error) if error.status() == Some(404) => Ok(()),
            done => done.map(drop),
        }
    }
}

/// A status of 465 is no failure: it says what comes first.
fn changed(answer: Result<Value, ApiError>) -> Result<Changed, ApiError> {
    match answer {
        Ok(_) => Ok(Changed::Begun),
        Err(ApiError::Refused(refusal)) if refusal.status == 465 => answers::prepared(&refusal).map(Changed::Waits),
        Err(error) => Err(error),
    }
}
