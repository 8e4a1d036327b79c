//! What `--version` says of a program's build.

use std::env::consts::{ARCH, OS};

/// A line each for version, commit, platform and features. `commit` is the variable `MESH_COMMIT` of the build, which `make build` and
/// `make dist` set: builds for development leave it out, so that a commit compiles nothing again. `features` names what builds of
/// one version differ in, and whether it is in.
#[must_use]
pub fn in_full(version: &str, commit: Option<&str>, features: &[(&str, bool)]) -> String {
    let commit = commit.filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let of_all = [("static", cfg!(target_feature = "crt-static")), ("debug-assertions", cfg!(debug_assertions))];
    let features: Vec<_> = features.iter().chain(&of_all).filter(|(_, is_in)| *is_in).map(|(name, _)| *name).collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    format!("{version}\ncommit: {commit}\nplatform: {ARCH}-{OS}-{libc}\nfeatures: {features}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_a_commit_says_so() {
        let line = |commit, features: &[(&str, bool)], start| {
            let text = in_full("1.2.3", commit, features);
            text.lines().find(|line| line.starts_with(start)).map(str::to_owned)
        };
        assert!(in_full("1.2.3", None, &[]).starts_with("1.2.3\n"));
        assert_eq!(line(None, &[], "commit").as_deref(), Some("commit: unknown"));
        assert_eq!(line(Some(""), &[], "commit").as_deref(), Some("commit: unknown"));
        assert_eq!(line(Some("8461ab0d"), &[], "commit").as_deref(), Some("commit: 8461ab0d"));
        assert!(line(None, &[("one", true), ("two", false)], "features").unwrap().starts_with("features: one"));
        assert!(!line(None, &[("two", false)], "features").unwrap().contains("two"));
    }
}
