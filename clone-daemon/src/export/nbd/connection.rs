//! One connection, from the greeting to the end. The receiver thread runs [`serve`].

use std::io::IoSlice;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Instant;

use tracing::debug;

use crate::export::nbd::buffers::Inbox;
use crate::export::nbd::channel::{Channel, SendLimits, Writer};
use crate::export::nbd::limits::Limit;
use crate::export::nbd::negotiation::{Chosen, Negotiation, Next, Security};
use crate::export::nbd::parse::{self, OPTION_BYTES, OPTION_DATA_MAX, Violation};
use crate::export::nbd::reply::{Bytes, Outbox};
use crate::export::nbd::session::{Session, SessionEnd};
use crate::export::nbd::{ServerOptions, Shared};
use crate::nbd_protocol::{MAGIC, OPTION_MAGIC, handshake};

/// Maximum length in bytes of an option that is skipped and answered; a longer one ends the
/// connection.
const SKIPPED_MAX: u32 = 1 << 20;

/// Serves the client of `channel` until the connection ends. `id` is its number in the registry.
pub(super) fn serve(shared: &Shared, id: u64, channel: &Arc<Channel>, mut writer: Writer) {
    let ServerOptions { handshake, handshake_silence: silence, .. } = shared.options;
    let limits = SendLimits { silence, until: Instant::now() + handshake };
    writer.set_timeouts(Some(limits));
    let mut inbox = Inbox::new(channel.clone(), shared.memory.own(), limits);
    let ended = match negotiation(shared, id, channel, &mut inbox, &mut writer) {
        Ok(chosen) => transmit(shared, channel, (inbox, writer), &chosen),
        Err(ended) => ended,
    };
    debug!(id, "connection ended: {ended}");
    channel.close();
}

fn negotiation(
    shared: &Shared,
    id: u64,
    channel: &Channel,
    inbox: &mut Inbox,
    writer: &mut Writer,
) -> Result<Chosen, SessionEnd> {
    let mut out = Bytes::default();
    out.u64(MAGIC).u64(OPTION_MAGIC).u16(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
    writer.send(&mut [IoSlice::new(&out.0)])?;
    inbox.receive_all(4)?;
    let mut flags = [0; 4];
    flags.copy_from_slice(&inbox.have()[..4]);
    inbox.consume(4);
    let security = match shared.options.tls {
        Some(_) => Security::Required,
        None => Security::Plain,
    };
    let no_zeroes = parse::greeting(flags)?;
    let mut negotiation = Negotiation::new(&*shared.volumes, security, no_zeroes);
    loop {
        let mut out = Vec::new();
        let (option, mut next) = next_option(&mut negotiation, inbox, &mut out)?;
        if let Next::Transmission(chosen) = &next
            && let Err(limit) = enter(shared, id, chosen)?
        {
            out.clear();
            next = negotiation.refuse(option, &format!("too many connections: {limit}"), &mut out);
        }
        writer.send(&mut [IoSlice::new(&out)])?;
        match next {
            Next::Option => {}
            Next::HangUp => return Err(SessionEnd::Client),
            Next::Transmission(chosen) => return Ok(chosen),
            Next::Tls => {
                if !inbox.have().is_empty() {
                    return Err(Violation::BeforeTls.into());
                }
                if let Some(tls) = &shared.options.tls {
                    channel.start_tls(tls, inbox.intake())?;
                    negotiation.secured();
                }
            }
        }
    }
}

fn next_option(
    negotiation: &mut Negotiation<'_>,
    inbox: &mut Inbox,
    out: &mut Vec<u8>,
) -> Result<(u32, Next), SessionEnd> {
    inbox.receive_all(OPTION_BYTES)?;
    let mut header = [0; OPTION_BYTES];
    header.copy_from_slice(&inbox.have()[..OPTION_BYTES]);
    inbox.consume(OPTION_BYTES);
    let (option, len) = parse::option(&header)?;
    if len > SKIPPED_MAX {
        return Err(Violation::Payload(len.into()).into());
    }
    if len > OPTION_DATA_MAX {
        inbox.skip(len as usize)?;
        negotiation.too_long(option, out);
        return Ok((option, Next::Option));
    }
    inbox.receive_all(len as usize)?;
    let next = negotiation.option(option, &inbox.have()[..len as usize], out);
    inbox.consume(len as usize);
    Ok((option, next))
}

/// Enters the connection for its volume before the client is told: from then on it is not cut for
/// new connections that negotiate. If a limit is reached, the negotiation continues.
fn enter(shared: &Shared, id: u64, chosen: &Chosen) -> Result<Result<(), Limit>, SessionEnd> {
    let name = chosen.volume.name();
    if let Err(limit) = shared.registry.enter(id, name) {
        return Ok(Err(limit));
    }
    // The removal of a volume cuts the connections that have entered it; this one may be too late.
    let still = shared.volumes.find(name);
    match still.is_some_and(|volume| Arc::ptr_eq(&volume, &chosen.volume)) {
        true => Ok(Ok(())),
        false => Err(SessionEnd::Removed),
    }
}

fn transmit(
    shared: &Shared,
    channel: &Arc<Channel>,
    (mut inbox, mut writer): (Inbox, Writer),
    chosen: &Chosen,
) -> SessionEnd {
    if let Err(error) = inbox.be_patient() {
        return error.into();
    }
    writer.set_timeouts(None);
    let outbox = Outbox::new(channel.clone(), writer);
    let sender = outbox.clone();
    let thread = Builder::new().name("nbd-sender".into()).stack_size(super::STACK_BYTES);
    let thread = match thread.spawn(move || sender.keep_sending()) {
        Ok(thread) => thread,
        Err(error) => return error.into(),
    };
    let memory = shared.memory.clone();
    let mut session = Session::new(chosen, channel.clone(), inbox, outbox.clone(), memory);
    let ended = session.run();
    outbox.finish(Instant::now() + shared.options.grace);
    // If it panicked, the message is on stderr already.
    let _ = thread.join();
    ended
}
