//! Reporting to systemd, where it asks for that (`NOTIFY_SOCKET`, sd_notify(3)). Its watchdog (`WATCHDOG_USEC`) is fed by the driver's
//! loop itself: a loop that hangs is restarted.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process,
    time::Duration,
};

/// The service manager's socket, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    target: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Watchdog>,
}

/// Times are on the driver's monotonic clock.
#[derive(Debug)]
struct Watchdog {
    every: Duration,
    next: Duration,
}

impl ServiceManager {
    /// Reads `NOTIFY_SOCKET`, without which nothing is ever sent, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name: &str| env::var(name).ok();
        let service = Self::at(&variable("NOTIFY_SOCKET").unwrap_or_default());
        match watchdog_period(variable, process::id()) {
            Some(period) => service.with_watchdog(period),
            None => service,
        }
    }

    /// The same, with a watchdog that waits so long for a sign of life.
    #[must_use]
    pub fn with_watchdog(self, period: Duration) -> Self {
        Self { watchdog: Some(Watchdog { every: period / 3, next: Duration::ZERO }), ..self }
    }

    /// The one that listens at `name`: an absolute path, or `@` and an abstract name. No socket, where it is neither.
    #[must_use]
    pub fn at(name: &str) -> Self {
        Self { target: Self::open(name).ok(), watchdog: None }
    }

    fn open(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
        let address = match name.strip_prefix('@') {
            Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
            None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
            None => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let socket = UnixDatagram::unbound()?;
        // A service manager that does not read holds nothing up.
        socket.set_nonblocking(true)?;
        Ok((socket, address))
    }

    /// Applications may rely on the mesh.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// An orderly stop has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    /// A sign of life of the caller's loop, where one is due. Returns when to call again at the latest.
    pub fn feed(&mut self, now: Duration) -> Option<Duration> {
        let watchdog = self.watchdog.as_mut()?;
        let is_due = watchdog.next <= now;
        if is_due {
            watchdog.next = now + watchdog.every;
        }
        let next = watchdog.next;
        if is_due {
            self.send("WATCHDOG=1");
        }
        Some(next)
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.target
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

/// How long systemd waits for a sign of life of this process (sd_watchdog_enabled(3)).
fn watchdog_period(variable: impl Fn(&str) -> Option<String>, own: u32) -> Option<Duration> {
    let is_for_another = variable("WATCHDOG_PID").is_some_and(|pid| pid.parse() != Ok(own));
    let period = variable("WATCHDOG_USEC")?.parse().ok().map(Duration::from_micros);
    period.filter(|period| !period.is_zero() && !is_for_another)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn messages_reach_the_socket() {
        let dir = Scratch::new();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let service = ServiceManager::at(path.to_str().unwrap());
        service.ready();
        service.status("two\nlines");
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STATUS=two lines");
    }

    #[test]
    fn the_watchdog_is_that_of_this_process() {
        let period = |set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(is, _)| *is == name).map(|(_, value)| (*value).to_owned());
            watchdog_period(variable, 7)
        };
        let minute = ("WATCHDOG_USEC", "60000000");
        assert_eq!(period(&[minute]), Some(Duration::from_secs(60)));
        assert_eq!(period(&[minute, ("WATCHDOG_PID", "7")]), Some(Duration::from_secs(60)));
        assert_eq!(period(&[minute, ("WATCHDOG_PID", "8")]), None);
        for none in [&[][..], &[("WATCHDOG_USEC", "0")], &[("WATCHDOG_USEC", "soon")]] {
            assert_eq!(period(none), None);
        }
    }

    #[test]
    fn a_sign_of_life_is_sent_when_it_is_due() {
        let dir = Scratch::new();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut service = ServiceManager::at(path.to_str().unwrap()).with_watchdog(Duration::from_secs(30));
        let at = Duration::from_secs;
        let mut sent = |now| {
            let next = service.feed(now);
            (next, manager.recv(&mut [0; 64]).is_ok())
        };
        assert_eq!(sent(at(5)), (Some(at(15)), true));
        assert_eq!(sent(at(14)), (Some(at(15)), false));
        assert_eq!(sent(at(16)), (Some(at(26)), true));
        assert_eq!(ServiceManager::at("").feed(at(1)), None);
    }
}
