//! `meshctl dev-url`: where a node is reached in a cluster with dev mode, whatever its address in the mesh.

use clap::Subcommand;
use mesh_contract::DstackClusterNFT::setDevUrlCall;
use mesh_core::{dev_url::DevUrl, id::TokenId};
use serde::Serialize;

use super::{change::change_cluster, token::uint};
use crate::{output::Printer, settings::Settings, signer::SignerArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl dev-url set 7 http://localhost:8080")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Give a node a URL, while the cluster is in dev mode (token owner)
    Set(SetArgs),
    /// Take it back (token owner)
    Unset(UnsetArgs),
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// The node's token
    #[arg(value_name = "TOKEN")]
    token: TokenId,
    /// Any URL, up to 256 visible ASCII characters; it is public
    #[arg(value_name = "URL")]
    url: DevUrl,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, clap::Args)]
struct UnsetArgs {
    /// The node's token
    #[arg(value_name = "TOKEN")]
    token: TokenId,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Serialize)]
struct Changed {
    token_id: TokenId,
    /// `null`: none any more.
    dev_url: Option<DevUrl>,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (token, dev_url, key) = match &args.verb {
        Verb::Set(SetArgs { token, url, key }) => (*token, Some(url.clone()), key),
        Verb::Unset(UnsetArgs { token, key }) => (*token, None, key),
    };
    let (what, text) = match &dev_url {
        Some(url) => {
            (format!("give token {token} its URL"), format!("token {token} is reached at {url}, while dev mode lasts"))
        }
        None => (format!("take the URL of token {token} back"), format!("token {token} has no development URL")),
    };
    let url = dev_url.clone().map(String::from).unwrap_or_default();
    let call = setDevUrlCall { tokenId: uint(token), url };
    change_cluster(settings, key, printer, what, call, (Changed { token_id: token, dev_url }, text)).await
}
