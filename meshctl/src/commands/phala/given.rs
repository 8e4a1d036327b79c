//! What an operator gives: the API and its key, the compose file, the environment. Files are read and checked before anything is asked.

use std::{
    fs::File,
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use hyper::Uri;
use mesh_core::place::Domain;
use zeroize::Zeroizing;

use crate::{
    app_compose::{DEFAULT_SCRIPT, MAX_DOCUMENT, Rendered, Sources, require_digests},
    failure::Failure,
    phala::{AgentUrl, Agents, Api, ApiKey, Environment, Variable},
    signer::{MAX_SECRET, read_secret_file, seconds},
};

/// Where a key is looked for, as Phala's own tools do.
const KEY_VARIABLE: &str = "PHALA_CLOUD_API_KEY";
/// The longest file of variables, bytes.
const MAX_ENVIRONMENT: u64 = 64 << 10;

/// Set by this program where a CVM has a UDP port of its own. They are always allowed, so that the compose hash does not depend on it.
pub(super) const LISTEN_PORT: &str = "P2P_LISTEN_PORT";
pub(super) const ENDPOINT: &str = "P2P_ENDPOINT";
const GATEWAY_DOMAIN: &str = "DSTACK_GATEWAY_DOMAIN";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Phala Cloud options")]
pub(super) struct ApiArgs {
    /// Phala Cloud's API
    #[arg(
        long,
        value_name = "URL",
        env = "PHALA_CLOUD_API_PREFIX",
        default_value = "https://cloud-api.phala.com/api/v1",
        value_parser = parse_api_url
    )]
    api_url: String,
    /// File with the workspace's API key, mode 0600 [default: the variable PHALA_CLOUD_API_KEY]
    #[arg(long, value_name = "PATH")]
    api_key_file: Option<PathBuf>,
}

/// Of the commands that make nodes members, or wait for them.
#[derive(Debug, clap::Args)]
pub(super) struct AgentArgs {
    /// Where the agents' API can be read from here, as in https://{instance_id}-8088.{gateway}: registrations are then submitted, and
    /// readiness is waited for
    #[arg(long, value_name = "URL", help_heading = "Phala Cloud options")]
    agent_url: Option<AgentUrl>,
}

/// Of the commands that wait.
#[derive(Debug, clap::Args)]
pub(super) struct WaitArgs {
    /// Give up when nothing has happened for this long; the same command goes on from there
    #[arg(long, value_name = "SECONDS", default_value = "900", value_parser = seconds())]
    timeout: u64,
    /// How often to look: 0.1 to 60
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_interval)]
    pub(super) interval: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Software options")]
pub(super) struct SourceArgs {
    /// The docker-compose.yml of each CVM, its images named by digest
    #[arg(long, value_name = "PATH")]
    compose_file: PathBuf,
    /// File with the CVMs' variables, NAME=VALUE on each line, mode 0600: they are encrypted for the CVMs alone
    #[arg(long, value_name = "PATH")]
    env_file: Option<PathBuf>,
    /// Script that runs before the compose file [default: one that finds the gateway's domain]
    #[arg(long, value_name = "PATH")]
    pre_launch_script: Option<PathBuf>,
    /// Base domain of the gateway, for DSTACK_GATEWAY_DOMAIN, where it is known beforehand
    #[arg(long, value_name = "DOMAIN")]
    gateway_domain: Option<Domain>,
    /// Take images without a digest, and builds: the compose hash then does not say what runs
    #[arg(long)]
    allow_tags: bool,
    /// Let everyone read the containers' logs
    #[arg(long)]
    public_logs: bool,
}

/// What the CVMs are to run, checked.
pub(super) struct Software {
    pub(super) rendered: Rendered,
    pub(super) environment: Environment,
    /// What is allowed to be set from outside, sorted.
    pub(super) names: Vec<String>,
    /// The compose file passes on which port its agent listens and where it is reached.
    pub(super) takes_endpoint: bool,
}

impl ApiArgs {
    pub(super) fn api(&self) -> anyhow::Result<Api> {
        let text = match &self.api_key_file {
            Some(path) => read_secret_file(path, MAX_SECRET)?,
            None => Zeroizing::new(std::env::var(KEY_VARIABLE).unwrap_or_default()),
        };
        let missing = match (&self.api_key_file, text.trim().is_empty()) {
            (None, true) => Failure::usage("no API key of Phala Cloud given")
                .hint("set PHALA_CLOUD_API_KEY, or name a file that holds it with `--api-key-file PATH`"),
            _ => Failure::usage("the API key of Phala Cloud is none")
                .hint("it is one word of at least 8 characters, such as phak_… from the dashboard"),
        };
        Ok(Api::new(self.api_url.clone(), ApiKey::new(text).ok_or(missing)?))
    }
}

impl AgentArgs {
    pub(super) fn agents(&self) -> Option<Agents> {
        self.agent_url.clone().map(Agents::new)
    }
}

impl WaitArgs {
    pub(super) const fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

impl SourceArgs {
    pub(super) fn read(&self) -> anyhow::Result<Software> {
        let compose_file = read_text(&self.compose_file)?;
        if !self.allow_tags {
            require_digests(&compose_file).map_err(|error| {
                Failure::usage(format!("`{}`, {error}", self.compose_file.display()))
                    .hint("name each image as NAME@sha256:…, that of one manifest and not of an index; `--allow-tags` takes it as it is")
            })?;
        }
        let script = match &self.pre_launch_script {
            Some(path) => read_text(path)?,
            None => DEFAULT_SCRIPT.to_owned(),
        };
        let mut variables = match &self.env_file {
            Some(path) => variables(&read_secret_file(path, MAX_ENVIRONMENT)?)
                .with_context(|| format!("cannot read the variables in `{}`", path.display()))?,
            None => Vec::new(),
        };
        if let Some(domain) = &self.gateway_domain {
            let value = Zeroizing::new(domain.to_string());
            variables.push(Variable { name: GATEWAY_DOMAIN.to_owned(), value });
        }
        let environment = Environment::new(variables);
        let mut names = environment.names();
        names.extend([GATEWAY_DOMAIN, ENDPOINT, LISTEN_PORT].map(str::to_owned));
        names.sort();
        names.dedup();
        let takes_endpoint = [ENDPOINT, LISTEN_PORT].iter().all(|name| compose_file.contains(&format!("${{{name}")));
        let sources = Sources {
            compose_file,
            script,
            allowed_envs: names.clone(),
            has_public_logs: self.public_logs,
            gateway: self.gateway_domain.clone(),
        };
        let rendered = sources.render().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Software { rendered, environment, names, takes_endpoint })
    }
}

/// Without its last slash. The API key is sent there.
fn parse_api_url(text: &str) -> Result<String, String> {
    let uri: Uri = text.parse().map_err(|_| "expected an https:// URL".to_owned())?;
    let host = uri.host().unwrap_or_default();
    let is_here = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") if !host.is_empty() && uri.query().is_none() => Ok(text.trim_end_matches('/').to_owned()),
        Some("http") if is_here && uri.query().is_none() => Ok(text.trim_end_matches('/').to_owned()),
        Some("http") => Err("an API key does not go over http://: give an https:// URL".to_owned()),
        Some(_) | None => Err("expected an https:// URL".to_owned()),
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=60.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected 0.1 to 60 seconds".to_owned())
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let failed = || Failure::usage(format!("cannot read `{}`", path.display()));
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_DOCUMENT as u64 + 1).read_to_string(&mut text));
    read.with_context(failed)?;
    anyhow::ensure!(text.len() <= MAX_DOCUMENT, "`{}` is longer than {MAX_DOCUMENT} bytes", path.display());
    Ok(text)
}

/// `NAME=VALUE` on each line, as Docker's env files have it: everything behind the first `=` is the value, quotes included; lines that
/// begin with `#` say nothing. Errors name the line and nothing of it.
fn variables(text: &str) -> anyhow::Result<Vec<Variable>> {
    let mut variables = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let is_name = |name: &&str| {
            !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        let pair = line.split_once('=').map(|(name, value)| (name.trim(), value)).filter(|(name, _)| is_name(name));
        let Some((name, value)) = pair else {
            return Err(Failure::usage(format!("line {} is not NAME=VALUE", at + 1)).into());
        };
        if [ENDPOINT, LISTEN_PORT].contains(&name) {
            let what = format!("line {}: {name} is set for each CVM by this command", at + 1);
            return Err(Failure::usage(what).hint("leave it out").into());
        }
        variables.push(Variable { name: name.to_owned(), value: Zeroizing::new(value.to_owned()) });
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_as_docker_reads_them() {
        let read = variables("# c\n\nA=1\n B = x=\"y\" \nP2P_RPC_URL=https://a,https://b\n").unwrap();
        let read: Vec<_> = read.iter().map(|variable| (variable.name.as_str(), variable.value.as_str())).collect();
        assert_eq!(read, [("A", "1"), ("B", " x=\"y\" "), ("P2P_RPC_URL", "https://a,https://b")]);
    }

    #[test]
    fn an_error_names_the_line_and_no_secret() {
        for (text, said) in [
            ("A=1\nS3CRET", "line 2 is not NAME=VALUE"),
            ("1A=S3CRET", "line 1 is not NAME=VALUE"),
            ("A B=S3CRET", "line 1 is not NAME=VALUE"),
            ("=S3CRET", "line 1 is not NAME=VALUE"),
            ("P2P_ENDPOINT=S3CRET", "line 1: P2P_ENDPOINT is set for each CVM"),
        ] {
            let error = format!("{:#}", variables(text).err().unwrap());
            assert!(error.contains(said) && !error.contains("S3CRET"), "{text}: {error}");
        }
    }

    #[test]
    fn the_api_is_not_asked_without_a_pause() {
        assert_eq!(parse_interval("0.1"), Ok(Duration::from_millis(100)));
        for wrong in ["0", "0.09", "-1", "NaN", "inf", "61", "", "1s"] {
            assert!(parse_interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_key_is_sent_over_tls_or_to_this_machine() {
        for good in [
            "https://cloud-api.phala.com/api/v1/",
            "http://127.0.0.1:8/api/v1",
            "http://localhost:1",
            "http://[::1]:1/x",
        ] {
            assert_eq!(parse_api_url(good).unwrap(), good.trim_end_matches('/'));
        }
        for wrong in ["http://cloud-api.phala.com/api/v1", "ftp://x", "cloud-api.phala.com", "", "https://x/?a=b"] {
            assert!(parse_api_url(wrong).is_err(), "{wrong}");
        }
    }
}
