//! Carries the leader's questions to the other nodes, and their answers back. The replica repeats lost questions.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Context as _;
use counter_core::{Answer, Question, Token};
use tokio::sync::mpsc;

use crate::{driver::Handle, neighbours::Neighbours};

/// The path at which nodes ask each other.
pub(crate) const PATH: &str = "/peer";
/// How long an answer is awaited.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The longest answer that is read, bytes: a batch of entries is far below.
const MAX_ANSWER: usize = 4 << 20;

/// A client that calls from the mesh address, by which the others know this node.
pub(crate) fn client(own: Ipv4Addr, patience: Duration) -> anyhow::Result<reqwest::Client> {
    let client = reqwest::Client::builder()
        .local_address(std::net::IpAddr::V4(own))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(patience)
        .connect_timeout(ANSWER_WITHIN);
    client.build().context("cannot make an HTTP client")
}

/// Runs until the driver ends.
pub(crate) async fn run(
    mut questions: mpsc::UnboundedReceiver<(Token, Question)>,
    driver: Handle,
    neighbours: Neighbours,
    own: Ipv4Addr,
) -> anyhow::Result<()> {
    let client = client(own, ANSWER_WITHIN)?;
    while let Some((to, question)) = questions.recv().await {
        let Some(url) = neighbours.url(to, PATH) else { continue };
        let (client, driver) = (client.clone(), driver.clone());
        tokio::spawn(async move {
            match carry(&client, &url, &question).await {
                // An answer in another node's name is not believed.
                Ok(answer) if answer.from.token == to => drop(driver.answer(answer)),
                Ok(answer) => tracing::warn!(%to, says = %answer.from.token, "an answer in another node's name"),
                Err(error) => tracing::debug!(%to, "no answer: {error:#}"),
            }
        });
    }
    Ok(())
}

async fn carry(client: &reqwest::Client, url: &str, question: &Question) -> anyhow::Result<Answer> {
    let body = serde_json::to_vec(question)?;
    let answer = client.post(url).header("content-type", "application/json").body(body).send().await?;
    let answer = answer.error_for_status()?;
    Ok(serde_json::from_slice(&whole(answer).await?)?)
}

/// The body of an answer, up to the limit.
pub(crate) async fn whole(mut answer: reqwest::Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        anyhow::ensure!(body.len() + chunk.len() <= MAX_ANSWER, "the answer is longer than {MAX_ANSWER} bytes");
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
