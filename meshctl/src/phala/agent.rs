//! The agents of the CVMs, asked from outside where the operator has made their API readable there: for registrations to submit, which
//! are signed, and for whether the mesh can be used. What comes from there is as little believed as what comes from the API.

use std::{str::FromStr, time::Duration};

use http_body_util::Full;
use hyper::{Request, StatusCode, Uri, body::Bytes};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mesh_chain::Dialer;
use mesh_core::{
    id::{InstanceId, TokenId},
    place::Domain,
    status::RegistrationOffer,
    text::escaped,
};
use tokio::time::timeout;

use super::{
    Cvm,
    http::{causes, read},
};

/// The longest answer that is read, bytes: an offer is a page of hex.
const MAX_ANSWER: usize = 64 << 10;
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the API of a CVM's agent is reached: a URL with `{instance_id}` in it, and `{gateway}` for the gateway's base domain.
#[derive(Debug, Clone)]
pub(crate) struct AgentUrl(String);

impl FromStr for AgentUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains("{instance_id}") {
            return Err("it has no {instance_id}: it looks like https://{instance_id}-8088.{gateway}".to_owned());
        }
        let url = Self(text.trim_end_matches('/').to_owned());
        let example = url.fill(InstanceId([0x11; 20]), Some("gateway.example")).unwrap_or_default();
        let is_url = example.parse::<Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        if is_url { Ok(url) } else { Err("expected an http:// or https:// URL with a host".to_owned()) }
    }
}

impl AgentUrl {
    /// `None`: the gateway is not known yet.
    fn fill(&self, instance: InstanceId, gateway: Option<&str>) -> Option<String> {
        let url = self.0.replace("{instance_id}", &instance.to_string());
        if url.contains("{gateway}") { Some(url.replace("{gateway}", gateway?)) } else { Some(url) }
    }
}

/// The agents of a cluster.
pub(crate) struct Agents {
    client: Client<Dialer, Full<Bytes>>,
    url: AgentUrl,
}

impl Agents {
    pub(crate) fn new(url: AgentUrl) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build(Dialer::default()), url }
    }

    /// What an agent has signed for a token; else why there is nothing, safe to print.
    pub(crate) async fn registration(&self, cvm: &Cvm, token: TokenId) -> Result<RegistrationOffer, String> {
        let (status, body) = self.get(cvm, &format!("/v1/registration?token={token}")).await?;
        if !status.is_success() {
            return Err(format!("its agent answers with HTTP status {}", status.as_u16()));
        }
        serde_json::from_slice(&body)
            .map_err(|error| format!("its agent is not understood: {}", escaped(&error.to_string(), 100)))
    }

    /// Whether an agent says that its mesh can be used.
    pub(crate) async fn is_ready(&self, cvm: &Cvm) -> bool {
        self.get(cvm, "/readyz").await.is_ok_and(|(status, _)| status.is_success())
    }

    async fn get(&self, cvm: &Cvm, path: &str) -> Result<(StatusCode, Vec<u8>), String> {
        let instance = cvm.instance.ok_or("it has no instance id yet")?;
        let gateway = cvm.gateway.as_ref().map(Domain::to_string);
        let url = self.url.fill(instance, gateway.as_deref()).ok_or("its gateway is not known yet")?;
        let request = Request::get(format!("{url}{path}")).body(Full::new(Bytes::new()));
        let request = request.map_err(|_| "its URL is none".to_owned())?;
        let asked = async {
            let response = self.client.request(request).await.map_err(|error| causes(&error))?;
            let status = response.status();
            Ok((status, read(response.into_body(), MAX_ANSWER).await?))
        };
        let answer: Result<_, String> =
            timeout(PATIENCE, asked).await.map_err(|_| "its agent does not answer".to_owned())?;
        answer.map_err(|why| format!("its agent is not reached: {}", escaped(&why, 100)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_the_instance_and_perhaps_the_gateway() {
        let url: AgentUrl = "https://{instance_id}-8088.{gateway}/".parse().unwrap();
        let instance = InstanceId([0x11; 20]);
        let filled = url.fill(instance, Some("gw.example")).unwrap();
        assert_eq!(filled, format!("https://{}-8088.gw.example", "11".repeat(20)));
        assert_eq!(url.fill(instance, None), None);
        let fixed: AgentUrl = "http://127.0.0.1:8/{instance_id}".parse().unwrap();
        assert_eq!(fixed.fill(instance, None).unwrap(), format!("http://127.0.0.1:8/{}", "11".repeat(20)));
        for wrong in [
            "https://agent.example",
            "ftp://{instance_id}.example",
            "{instance_id}",
            "https:///{instance_id}",
            "https://{instance_id} b",
        ] {
            assert!(wrong.parse::<AgentUrl>().is_err(), "{wrong}");
        }
    }
}
