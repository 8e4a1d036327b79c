//! The bare device as a program: what `wireguard-go IFNAME` is.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::thread;

use crate::config::DeviceOptions;
use crate::device::Device;
use crate::error::Error;
use crate::sys::{self, TerminationSignals};

/// Runs a device, configured by `wg` over its socket, until SIGTERM, SIGINT, or the deletion of its interface.
///
/// With `foreground` it does so in this process and returns at the end. Without, it returns as soon as interface and
/// socket answer, and a process in the background, without terminal and standard streams, goes on. In that process too
/// the call returns, at the end: the caller's `main` should then return.
///
/// To be called before the process has a second thread: it forks, and it blocks the two signals for the threads to come.
///
/// # Errors
/// As [`Device::create`]; from the background, [`Error::Daemon`] with its words.
pub fn run_standalone(options: DeviceOptions, foreground: bool) -> Result<(), Error> {
    if foreground {
        return run(options, || Ok(()));
    }
    let (mut ours, theirs) = io::pipe().map_err(Error::io("make a pipe"))?;
    if sys::fork().map_err(Error::io("start a process in the background"))? {
        drop(ours);
        background(options, theirs.into())
    } else {
        drop(theirs);
        let mut message = String::new();
        ours.read_to_string(&mut message).map_err(Error::io("hear from the process in the background"))?;
        match message.as_str() {
            READY => Ok(()),
            "" => Err(Error::Daemon { message: "the process in the background ended without a word".to_owned() }),
            _ => Err(Error::Daemon { message }),
        }
    }
}

/// What the background says when its device answers; anything else is why it does not.
const READY: &str = "ready";

fn background(options: DeviceOptions, to_parent: OwnedFd) -> Result<(), Error> {
    let mut to_parent = Some(File::from(to_parent));
    let result = run(options, || {
        sys::detach().map_err(Error::io("leave the terminal"))?;
        if let Some(mut pipe) = to_parent.take() {
            pipe.write_all(READY.as_bytes()).map_err(Error::io("tell the process in the foreground"))?;
        }
        Ok(())
    });
    if let (Err(error), Some(mut pipe)) = (&result, to_parent) {
        // The process in the foreground says it, once; this one has nobody else to tell.
        let _ = pipe.write_all(error.in_full().as_bytes());
        return Ok(());
    }
    result
}

fn run(options: DeviceOptions, ready: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let signals = TerminationSignals::block();
    let device = Device::create(options)?;
    let stop = device.stopper();
    // It waits for as long as the process lives, and ends with it.
    thread::Builder::new()
        .name("wg-signals".to_owned())
        .spawn(move || {
            signals.wait();
            stop();
        })
        .map_err(Error::io("start the thread `wg-signals`"))?;
    ready()?;
    device.wait();
    device.stop()
}
