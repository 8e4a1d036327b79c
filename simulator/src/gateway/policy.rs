//! Which ports of an instance the gateway connects to: what its app-compose.json says, which it may have to ask for.
//!
//! A guest of dstack 0.5.9 or later says it as it registers. Of an older one the gateway closes every connection until it has asked
//! the guest's Worker (dstack/gateway, `src/proxy/port_policy.rs`): it fails closed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How often a Worker is asked, with pauses of one second, twice that, and so on.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// For one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of a longer answer are not read.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// The ports that a gateway may connect to; all of them where there is no list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PortPolicy(pub(super) Option<BTreeSet<u16>>);

impl PortPolicy {
    pub(super) fn allows(&self, port: u16) -> bool {
        self.0.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoPolicy {
    /// Asking again may help.
    #[error("no answer: {0}")]
    Transient(String),
    /// It is never asked again: the instance stays closed.
    #[error("the answer cannot be read: {0}")]
    Permanent(String),
}

/// What came of asking.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Learned {
    Policy(PortPolicy),
    /// Another connection has the gateway ask again.
    GaveUp,
    /// It stays closed.
    Unreadable,
}

/// Asks until there is an answer, or long enough.
pub(super) async fn learn<A: Future<Output = Result<PortPolicy, NoPolicy>>>(mut ask: impl FnMut() -> A) -> Learned {
    let mut pause = FIRST_PAUSE;
    for attempt in 1..=ATTEMPTS {
        match ask().await {
            Ok(policy) => return Learned::Policy(policy),
            Err(error @ NoPolicy::Permanent(_)) => {
                tracing::warn!(%error, "the port policy cannot be read; every connection is refused");
                return Learned::Unreadable;
            }
            Err(error) => tracing::info!(%error, attempt, "the port policy is not known yet"),
        }
        if attempt < ATTEMPTS {
            sleep(pause).await;
            pause *= 2;
        }
    }
    Learned::GaveUp
}

/// Asks the Worker there once.
pub(super) async fn ask(worker: SocketAddr) -> Result<PortPolicy, NoPolicy> {
    let answer = timeout(ANSWER, info(worker)).await;
    let answer = answer.map_err(|_| NoPolicy::Transient(format!("nothing within {} s", ANSWER.as_secs())))?;
    read(&answer.map_err(|error| NoPolicy::Transient(error.to_string()))?)
}

async fn info(worker: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(worker).await?;
    let request = format!("GET /prpc/Info HTTP/1.1\r\nHost: {worker}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Of `Info`, what counts here.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    tcb_info: String,
}

#[derive(Deserialize)]
struct TcbInfo {
    app_compose: String,
}

#[derive(Deserialize)]
struct AppCompose {
    #[serde(default)]
    port_policy: ComposePolicy,
}

#[derive(Default, Deserialize)]
struct ComposePolicy {
    #[serde(default)]
    restrict_mode: bool,
    #[serde(default)]
    ports: Vec<ComposePort>,
}

#[derive(Deserialize)]
struct ComposePort {
    port: u16,
}

/// The policy in a whole HTTP answer. An app that hides its documents is open.
fn read(answer: &[u8]) -> Result<PortPolicy, NoPolicy> {
    let transient = |what: &str| NoPolicy::Transient(what.to_owned());
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(|| transient("no HTTP"))?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(transient(&String::from_utf8_lossy(&answer[..end.min(32)])));
    }
    let permanent = |error: serde_json::Error| NoPolicy::Permanent(error.to_string());
    let info: Info = serde_json::from_slice(&answer[end + 4..]).map_err(|error| transient(&error.to_string()))?;
    if info.tcb_info.is_empty() {
        return Ok(PortPolicy::default());
    }
    let tcb: TcbInfo = serde_json::from_str(&info.tcb_info).map_err(permanent)?;
    let compose: AppCompose = serde_json::from_str(&tcb.app_compose).map_err(permanent)?;
    let ComposePolicy { restrict_mode, ports } = compose.port_policy;
    Ok(PortPolicy(restrict_mode.then(|| ports.into_iter().map(|port| port.port).collect())))
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    fn answer(compose: &str) -> Vec<u8> {
        let tcb = json!({"app_compose": compose}).to_string();
        format!("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", json!({"tcb_info": tcb})).into_bytes()
    }

    #[test]
    fn a_policy_is_what_the_compose_document_says() {
        let ports =
            |compose: &str| read(&answer(compose)).unwrap().0.map(|ports| ports.into_iter().collect::<Vec<_>>());
        assert_eq!(ports("{}"), None);
        assert_eq!(ports(r#"{"port_policy": {"ports": [{"port": 80}]}}"#), None, "listed, and not restricted");
        let restricted =
            r#"{"port_policy": {"restrict_mode": true, "ports": [{"port": 51822, "pp": true}, {"port": 80}]}}"#;
        assert_eq!(ports(restricted), Some(vec![80, 51822]));
        assert_eq!(ports(r#"{"port_policy": {"restrict_mode": true}}"#), Some(vec![]));
        let hidden = b"HTTP/1.1 200 OK\r\n\r\n{\"tcb_info\": \"\"}";
        assert!(read(hidden).unwrap().allows(1), "what is hidden is open");
    }

    #[test]
    fn what_may_pass_is_asked_again_and_what_cannot_is_not() {
        let failed = |answer: &[u8]| matches!(read(answer), Err(NoPolicy::Transient(_)));
        assert!(failed(b"") && failed(b"HTTP/1.1 503 Later\r\n\r\n") && failed(b"HTTP/1.1 200 OK\r\n\r\n{\"tcb"));
        for unreadable in ["", "7", r#"{"port_policy": 7}"#, r#"{"port_policy": {"ports": [{"port": 70000}]}}"#] {
            assert!(matches!(read(&answer(unreadable)), Err(NoPolicy::Permanent(_))), "{unreadable}");
        }
    }

    /// On virtual time.
    #[tokio::test(start_paused = true)]
    async fn a_worker_is_asked_six_times_in_half_a_minute() {
        let (begun, mut asked) = (Instant::now(), Vec::new());
        let learned = learn(|| {
            asked.push(begun.elapsed().as_secs());
            ready(Err(NoPolicy::Transient("refused".to_owned())))
        })
        .await;
        assert_eq!((learned, asked), (Learned::GaveUp, vec![0, 1, 3, 7, 15, 31]));

        let mut answers = vec![Ok(PortPolicy::default()), Err(NoPolicy::Transient("refused".to_owned()))];
        let learned = learn(|| ready(answers.pop().unwrap())).await;
        assert_eq!(learned, Learned::Policy(PortPolicy::default()));
        let learned = learn(|| ready(Err(NoPolicy::Permanent("no JSON".to_owned())))).await;
        assert_eq!(learned, Learned::Unreadable);
    }
}
