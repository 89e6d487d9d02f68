//! What a service manager is told: sd_notify(3), for a service of `Type=notify`.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use tracing::debug;

use crate::config::Environment;

/// The socket of whoever started this process and waits for its word; perhaps nobody.
pub struct Supervisor {
    address: Option<SocketAddr>,
}

impl Supervisor {
    /// The one that `NOTIFY_SOCKET` names: a path, or an abstract name behind an `@`.
    pub fn of(environment: &Environment) -> Self {
        let address = environment.path("NOTIFY_SOCKET").and_then(|name| {
            match name.as_os_str().as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                [b'/', ..] => SocketAddr::from_pathname(&name),
                // `vsock:`, for machines that are told from outside.
                _ => return None,
            }
            .ok()
        });
        Self { address }
    }

    /// The images can be listed.
    pub fn ready(&self, mountpoint: &Path) {
        self.tell(&format!("READY=1\nSTATUS={}", plain(&format!("mounted at {}", mountpoint.display()))));
    }

    /// The mount is gone; what has to survive is written out.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=unmounted, writing out the cache");
    }

    /// It will not come to anything, and why.
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        self.tell(&format!("STATUS={}", plain(&error.to_string())));
    }

    fn tell(&self, state: &str) {
        let Some(address) = &self.address else { return };
        let told = UnixDatagram::unbound().and_then(|socket| {
            // A manager that does not read must not hold up the mount.
            socket.set_nonblocking(true)?;
            socket.send_to_addr(state.as_bytes(), address)
        });
        if let Err(error) = told {
            debug!(%error, "NOTIFY_SOCKET does not take a message");
        }
    }
}

/// A line break would begin another variable.
fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(socket: &UnixDatagram, name: &str) -> String {
        let supervisor = Supervisor::of(&Environment::new([("NOTIFY_SOCKET", name)], 0, 0));
        supervisor.ready(Path::new("/mnt/a\nREADY=0"));
        supervisor.stopping();
        let mut message = [0; 1000];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    #[test]
    fn both_kinds_of_socket_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let expected = "READY=1\nSTATUS=mounted at /mnt/a READY=0";
        assert_eq!(told(&UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap()), expected);
        let name = format!("glancefs-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        assert_eq!(told(&socket, &format!("@{name}")), expected);
    }

    #[test]
    fn nobody_is_told_where_nobody_asks_or_listens() {
        for name in ["", "vsock:2:1", "/no/such/socket", "relative"] {
            Supervisor::of(&Environment::new([("NOTIFY_SOCKET", name)], 0, 0)).stopping();
        }
    }
}
