//! The device alone as a program, as `wireguard-go IFNAME` is.

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
/// With `foreground` it does so in this process and returns when the device has ended. Without, it returns as soon as interface and
/// socket are ready, and a background process without terminal and standard streams runs the device. The call returns in that
/// process too, when the device has ended: the caller's `main` should then return.
///
/// To be called before the process has a second thread: it forks, and it blocks the two signals for all later threads.
///
/// # Errors
/// As [`Device::create`]; those of the background process as [`Error::Daemon`].
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
        ours.read_to_string(&mut message).map_err(Error::io("read from the process in the background"))?;
        match message.as_str() {
            READY => Ok(()),
            "" => Err(Error::Daemon { message: "the process in the background ended without a message".to_owned() }),
            _ => Err(Error::Daemon { message }),
        }
    }
}

/// What the background process writes into the pipe when its device is ready; anything else is its error.
const READY: &str = "ready";

fn background(options: DeviceOptions, to_parent: OwnedFd) -> Result<(), Error> {
    let mut to_parent = Some(File::from(to_parent));
    let result = run(options, || {
        sys::detach().map_err(Error::io("leave the terminal"))?;
        if let Some(mut pipe) = to_parent.take() {
            pipe.write_all(READY.as_bytes()).map_err(Error::io("write to the process in the foreground"))?;
        }
        Ok(())
    });
    if let (Err(error), Some(mut pipe)) = (&result, to_parent) {
        // The process in the foreground prints the error; this one must not print it again.
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
