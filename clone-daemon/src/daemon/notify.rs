//! Notifications to systemd.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// Maximum time that a message waits for socket buffer space.
const TIME: Duration = Duration::from_secs(1);

/// Sends a notification to the socket in `NOTIFY_SOCKET`, if that is set. Unlike
/// [`sd_notify::notify`] this does not wait long for a reader.
pub(super) fn notify(states: &[NotifyState<'_>]) -> io::Result<()> {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TIME))?;
    socket.connect_addr(&address)?;
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    socket.send(message.as_bytes()).map(drop)
}
