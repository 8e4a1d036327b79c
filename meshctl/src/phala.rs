//! Phala Cloud: its API, behind types; what a cluster there lacks, decided by pure functions; secrets sealed for the CVMs alone. The
//! commands are in `commands/phala`.

mod agent;
mod answers;
mod api;
mod dstack_kms;
mod error;
mod http;
mod plan;
mod public_address;
mod seal;
mod upgrade;

pub(crate) use agent::{AgentUrl, Agents};
pub(crate) use answers::{Cvm, CvmId, CvmState, EnvKey, KmsInfo, Mapping, NodeId, Prepared, Provisioned};
pub(crate) use api::{Api, Changed, Provision};
pub(crate) use dstack_kms::{expected_kms, require_expected};
pub(crate) use error::ApiError;
pub(crate) use http::ApiKey;
pub(crate) use plan::{Membership, Seen, Step, Stuck, Tried, Wanted, least_used, next};
pub(crate) use seal::{Environment, Variable, verify_env_key};
pub(crate) use upgrade::{UpgradeStep, next_upgrade};
