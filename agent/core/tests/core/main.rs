//! Tests of the core's public face: tables first, then the whole agent on a scripted world, then random histories.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod cluster;
mod contract;
mod machine;
mod world;

mod agent;
mod behind;
mod clones;
mod convergence;
mod cost;
mod development;
mod diff;
mod flood;
mod freshness;
mod gate;
mod guard;
mod heard_news;
mod manual;
mod member;
mod membership;
mod news;
mod outage;
mod own_news;
mod paths;
mod place;
mod proof;
mod quorum;
mod renewal;
mod spent;
mod status;
mod tls_members;
