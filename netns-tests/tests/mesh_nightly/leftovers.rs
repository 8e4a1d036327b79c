//! A run that is killed cannot clean up: the next one does it, and leaves those alone that are still running.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Launch, Namespace, Process, Signal, World};

/// For a run to get somewhere, or to its end: it makes and removes namespaces, and nodes join in it one after the other.
const RUN: Duration = Duration::from_secs(300);

#[test]
fn the_next_run_removes_what_a_killed_one_left_and_nothing_of_a_living_one() -> Result<()> {
    // Worlds look for each other where temporary files are: these three see each other, and no other test.
    let world = World::new(0)?;
    let place = world.dir().join("runs");
    fs::create_dir(&place)?;
    let demo = |name: &str| -> Result<Run> {
        let launch = Launch::new(env!("CARGO_BIN_EXE_demo")).env("TMPDIR", &place);
        Ok(Run(launch.start(&world.dir().join(format!("{name}.log")))?))
    };
    let mut living = demo("living")?;
    let (kept, _) = world.wait("the first run to have agents", RUN, || Made::by(&living.0, &place))?;
    let mut killed = demo("killed")?;
    let (left, _) = world.wait("the second run to have agents", RUN, || Made::by(&killed.0, &place))?;
    killed.0.signal(Signal::Kill)?;
    killed.0.wait(RUN)?;
    ensure!(left.is_all_there()?, "a killed run left nothing of {left:?}: this proves nothing");

    let mut next = demo("next")?;
    world.wait("the next run to remove what the killed one left", RUN, || {
        let rest = left.rest()?;
        ensure!(rest.is_empty(), "still there: {rest:?}");
        Ok(())
    })?;
    ensure!(kept.is_all_there()?, "of the living run {kept:?} there is only {:?}", kept.rest()?);
    ensure!(living.0.exited()?.is_none(), "the living run ended: {}", living.0.log_tail(10));

    for run in [&mut next, &mut living] {
        run.stop()?;
    }
    ensure!(kept.rest()?.is_empty(), "a run that was asked to stop left {:?}", kept.rest()?);
    ensure!(fs::read_dir(&place)?.next().is_none(), "directories are left in {}", place.display());
    world.close()
}

/// A demo that cleans up even when this test fails: no later run looks for leftovers where its directory is.
struct Run(Process);

impl Run {
    fn stop(&mut self) -> Result<()> {
        self.0.signal(Signal::Terminate)?;
        self.0.wait(RUN).map(drop)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // There is no caller to report an error to; the process is killed next.
        let _ = self.stop();
    }
}

/// What a run has made, once its agents answer.
#[derive(Debug)]
struct Made {
    dir: PathBuf,
    namespaces: Vec<String>,
    sockets: Vec<PathBuf>,
}

impl Made {
    fn by(run: &Process, place: &Path) -> Result<Self> {
        let owner = run.pid().to_string();
        let dir = dirs(place)?
            .into_iter()
            .find(|dir| fs::read_to_string(dir.join("owner.lock")).is_ok_and(|pid| pid.trim() == owner));
        let dir = dir.with_context(|| format!("no directory of {owner} yet: {}", run.log_tail(5)))?;
        let id = dir.to_string_lossy().rsplit_once("mesh-").context("no id in its name")?.1.to_owned();
        let prefix = format!("mesh-{id}-");
        let namespaces: Vec<String> = Namespace::list()?.into_iter().filter(|name| name.starts_with(&prefix)).collect();
        // Not that of node 2, which the demo revokes.
        let sockets: Vec<PathBuf> =
            [1, 3].iter().map(|node| PathBuf::from(format!("/var/run/wireguard/mesh{id}n{node}.sock"))).collect();
        // One more when the fourth node joins.
        let is_all_there = namespaces.len() >= 4 && sockets.iter().all(|socket| socket.exists());
        ensure!(is_all_there, "not all of {id} is there yet: {}", run.log_tail(5));
        Ok(Self { dir, namespaces, sockets })
    }

    /// What of it exists.
    fn rest(&self) -> Result<Vec<String>> {
        let namespaces = Namespace::list()?;
        let mut rest: Vec<String> = self.namespaces.iter().filter(|name| namespaces.contains(name)).cloned().collect();
        let paths = self.sockets.iter().chain([&self.dir]);
        rest.extend(paths.filter(|path| path.exists()).map(|path| path.display().to_string()));
        Ok(rest)
    }

    fn is_all_there(&self) -> Result<bool> {
        Ok(self.rest()?.len() == self.namespaces.len() + self.sockets.len() + 1)
    }
}

fn dirs(place: &Path) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(place)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}
