//! `manual DIR`: writes `man/`, `completions/` and `config.toml` for p2p-agent and meshctl. `make dist` runs it: the programs
//! themselves carry none of it.

mod config_file;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};

fn main() -> Result<()> {
    let dir = env::args_os().nth(1).map(PathBuf::from).context("usage: manual DIR")?;
    write(&dir)
}

fn programs() -> [Command; 2] {
    [p2p_agent::cli::Cli::command(), meshctl::command()]
}

fn write(dir: &Path) -> Result<()> {
    let man = dir.join("man");
    fs::create_dir_all(&man).with_context(|| format!("cannot create `{}`", man.display()))?;
    for program in programs() {
        clap_mangen::generate_to(program, &man).with_context(|| format!("cannot write to `{}`", man.display()))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let completions = dir.join("completions").join(shell.to_string());
        fs::create_dir_all(&completions).with_context(|| format!("cannot create `{}`", completions.display()))?;
        for mut program in programs() {
            let name = program.get_name().to_owned();
            generate_to(shell, &mut program, name, &completions)
                .with_context(|| format!("cannot write to `{}`", completions.display()))?;
        }
    }
    let config = dir.join("config.toml");
    fs::write(&config, config_file::text()).with_context(|| format!("cannot write `{}`", config.display()))
}

#[cfg(test)]
mod tests {
    use std::process;

    use testkit::Scratch;

    use super::*;

    /// The names of a command's page and of those below it.
    fn pages(command: &Command, above: &str) -> Vec<String> {
        let name = format!("{above}{}", command.get_name());
        let below = command.get_subcommands().filter(|sub| sub.get_name() != "help");
        let below: Vec<_> = below.flat_map(|sub| pages(sub, &format!("{name}-"))).collect();
        [vec![format!("{name}.1")], below].concat()
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = Scratch::new();
        write(dir.path()).unwrap();
        let expected: Vec<_> = programs().iter().flat_map(|program| pages(program, "")).collect();
        assert!(expected.len() > 50 && expected.contains(&"meshctl-config-set.1".to_owned()), "{expected:?}");
        for page in expected {
            let text = fs::read_to_string(dir.path().join("man").join(&page)).unwrap_or_default();
            assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
        }
    }

    #[test]
    fn every_shell_reads_its_completions() {
        let dir = Scratch::new();
        write(dir.path()).unwrap();
        for (shell, files) in [
            ("bash", ["p2p-agent.bash", "meshctl.bash"]),
            ("zsh", ["_p2p-agent", "_meshctl"]),
            ("fish", ["p2p-agent.fish", "meshctl.fish"]),
        ] {
            for file in files {
                let path = dir.path().join("completions").join(shell).join(file);
                assert!(fs::read_to_string(&path).unwrap().contains("--"), "{file} completes no flag");
                let checked = process::Command::new(shell).arg("-n").arg(&path).output();
                match checked {
                    Ok(checked) => assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr)),
                    Err(error) if shell == "bash" => panic!("bash: {error}"),
                    Err(_) => println!("not tested: {file}, because {shell} is not installed"),
                }
            }
        }
    }
}
