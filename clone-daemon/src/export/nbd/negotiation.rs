//! The negotiation of options, without I/O ("Fixed newstyle negotiation"). `connection` passes the
//! options of the client to [`Negotiation`], and sends the replies.

use std::sync::Arc;

use crate::export::nbd::parse;
use crate::export::nbd::reply::{self, Bytes, ReplyFormat};
use crate::export::volume::{Volume, Volumes};
use crate::nbd_protocol::{
    BASE_ALLOCATION, CLONE_HYDRATED, export, info, option, option_reply as answer,
};

/// The metadata contexts that a client selected. The identifier of a context is its index in
/// [`Context::ALL`] plus 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contexts {
    chosen: [bool; 2],
}

/// A metadata context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// Holes and zeroes (`base:allocation`).
    Allocation,
    /// Hydrated regions (`clone:hydrated`).
    Hydrated,
}

impl Context {
    /// All contexts.
    pub const ALL: [Self; 2] = [Self::Allocation, Self::Hydrated];

    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allocation => BASE_ALLOCATION,
            Self::Hydrated => CLONE_HYDRATED,
        }
    }

    /// Returns the identifier in replies.
    pub fn id(self) -> u32 {
        self as u32 + 1
    }

    /// Returns whether a query selects this context; with `wild`, also by its namespace alone.
    fn is_meant(self, query: &str, wild: bool) -> bool {
        let (name, namespace) = (self.name(), query.ends_with(':'));
        query == name || wild && namespace && name.starts_with(query)
    }
}

impl Contexts {
    /// Returns the selected contexts, in the order of their identifiers.
    pub fn iter(self) -> impl Iterator<Item = Context> {
        Context::ALL.into_iter().filter(move |&context| self.chosen[context as usize])
    }

    /// Returns the selected contexts with these identifiers. `None` if one of them is not selected,
    /// or is listed twice.
    pub fn only(self, ids: &[u32]) -> Option<Self> {
        let mut only = Self::default();
        for &id in ids {
            let context = self.iter().find(|context| context.id() == id)?;
            let chosen = &mut only.chosen[context as usize];
            if std::mem::replace(chosen, true) {
                return None;
            }
        }
        Some(only)
    }

    /// Returns whether no context is selected.
    pub fn is_empty(self) -> bool {
        self.chosen == [false; 2]
    }
}

/// The next step after an option.
pub enum Next {
    /// Another option.
    Option,
    /// Close the connection after the reply.
    HangUp,
    /// Start TLS after the reply.
    Tls,
    /// Handle requests after the reply.
    Transmission(Chosen),
}

/// The result of the negotiation.
pub struct Chosen {
    /// The exported volume.
    pub volume: Arc<Volume>,
    /// The format of replies.
    pub format: ReplyFormat,
    /// The selected metadata contexts.
    pub contexts: Contexts,
}

/// The state of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// No TLS, and none available.
    Plain,
    /// No TLS yet; the server reveals nothing before ("FORCEDTLS mode").
    Required,
    /// TLS is active.
    Tls,
}

/// A negotiation with a client.
pub struct Negotiation<'a> {
    volumes: &'a dyn Volumes,
    security: Security,
    no_zeroes: bool,
    format: ReplyFormat,
    /// The volume for which contexts were selected, and the contexts.
    contexts: Option<(String, Contexts)>,
}

impl<'a> Negotiation<'a> {
    /// Begins a negotiation. `no_zeroes` is from the [greeting](parse::greeting) of the client.
    pub fn new(volumes: &'a dyn Volumes, security: Security, no_zeroes: bool) -> Self {
        Self { volumes, security, no_zeroes, format: ReplyFormat::Simple, contexts: None }
    }

    /// Records that TLS is active. It voids everything negotiated before ("`NBD_OPT_STARTTLS`").
    pub fn secured(&mut self) {
        *self = Self::new(self.volumes, Security::Tls, self.no_zeroes);
    }

    /// Rejects an option that is too long.
    pub fn too_long(&self, option: u32, out: &mut Vec<u8>) {
        let kind = match self.security {
            Security::Required => answer::ERR_TLS_REQD,
            Security::Plain | Security::Tls => answer::ERR_TOO_BIG,
        };
        self.reply(option, kind, b"", out);
    }

    /// Handles an option, and appends the replies to `out`.
    pub fn option(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        match (option, self.security) {
            (option::ABORT, _) => {
                self.reply(option, answer::ACK, b"", out);
                return Next::HangUp;
            }
            // This option has no error reply; the connection has to end.
            (option::EXPORT_NAME, Security::Required) => return Next::HangUp,
            (option::EXPORT_NAME, _) => return self.export_name(data, out),
            (option::STARTTLS, _) => return self.start_tls(data, out),
            (_, Security::Required) => {
                self.reply(option, answer::ERR_TLS_REQD, b"TLS is required", out);
                return Next::Option;
            }
            _ => {}
        }
        match option {
            option::LIST => self.list(data, out),
            option::INFO | option::GO => return self.info(option, data, out),
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => self.headers(option, data, out),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_context(option, data, out);
            }
            _ => self.reply(option, answer::ERR_UNSUP, b"", out),
        }
        Next::Option
    }

    /// Refuses the export that `option` selected. [`option::EXPORT_NAME`] has no error reply, so
    /// the connection ends in that case.
    pub(super) fn refuse(&self, option: u32, why: &str, out: &mut Vec<u8>) -> Next {
        if option == option::EXPORT_NAME {
            return Next::HangUp;
        }
        self.reply(option, answer::ERR_POLICY, why.as_bytes(), out);
        Next::Option
    }

    fn reply(&self, option: u32, kind: u32, data: &[u8], out: &mut Vec<u8>) {
        let mut bytes = Bytes(std::mem::take(out));
        reply::option(&mut bytes, option, kind, data);
        *out = bytes.0;
    }

    fn invalid(&self, option: u32, why: &str, out: &mut Vec<u8>) {
        self.reply(option, answer::ERR_INVALID, why.as_bytes(), out);
    }

    fn export_name(&mut self, data: &[u8], out: &mut Vec<u8>) -> Next {
        // The option is not allowed with extended headers, and it has no error reply.
        let volume = parse::string(data).and_then(|name| self.volumes.find(name));
        let Some(volume) = volume.filter(|_| self.format != ReplyFormat::Extended) else {
            return Next::HangUp;
        };
        let chosen = self.chosen(volume);
        let mut bytes = Bytes(std::mem::take(out));
        bytes.u64(chosen.volume.size_bytes()).u16(chosen.flags());
        if !self.no_zeroes {
            bytes.raw(&[0; 124]);
        }
        *out = bytes.0;
        Next::Transmission(chosen)
    }

    fn start_tls(&mut self, data: &[u8], out: &mut Vec<u8>) -> Next {
        let option = option::STARTTLS;
        match self.security {
            Security::Plain => self.reply(option, answer::ERR_POLICY, b"", out),
            Security::Tls => self.invalid(option, "TLS is already in use", out),
            Security::Required if !data.is_empty() => self.invalid(option, "it has no data", out),
            Security::Required => {
                self.reply(option, answer::ACK, b"", out);
                return Next::Tls;
            }
        }
        Next::Option
    }

    fn list(&self, data: &[u8], out: &mut Vec<u8>) {
        if !data.is_empty() {
            return self.invalid(option::LIST, "it has no data", out);
        }
        for name in self.volumes.names() {
            let mut bytes = Bytes::default();
            let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
            bytes.u32(len).raw(name.as_bytes());
            // The rest of the reply is a description for people.
            if let Some(volume) = self.volumes.find(&name) {
                bytes.raw(describe(&volume).as_bytes());
            }
            self.reply(option::LIST, answer::SERVER, &bytes.0, out);
        }
        self.reply(option::LIST, answer::ACK, b"", out);
    }

    fn headers(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) {
        let extended = option == option::EXTENDED_HEADERS;
        if !data.is_empty() {
            return self.invalid(option, "it has no data", out);
        }
        if self.format == ReplyFormat::Extended && !extended {
            return self.reply(option, answer::ERR_EXT_HEADER_REQD, b"", out);
        }
        self.format = if extended { ReplyFormat::Extended } else { ReplyFormat::Structured };
        self.reply(option, answer::ACK, b"", out);
    }

    fn meta_context(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) {
        let is_set = option == option::SET_META_CONTEXT;
        if is_set {
            self.contexts = None;
        }
        if self.format == ReplyFormat::Simple {
            return self.invalid(option, "negotiate structured replies first", out);
        }
        let Some((name, queries)) = parse::meta_context(data) else {
            return self.invalid(option, "its data is invalid", out);
        };
        let Some(volume) = self.volumes.find(name) else {
            return self.reply(option, answer::ERR_UNKNOWN, UNKNOWN, out);
        };
        let all = queries.is_empty() && !is_set;
        let mut contexts = Contexts::default();
        for context in Context::ALL {
            if all || queries.iter().any(|query| context.is_meant(query, !is_set)) {
                contexts.chosen[context as usize] = true;
                let mut bytes = Bytes::default();
                let id = if is_set { context.id() } else { 0 };
                bytes.u32(id).raw(context.name().as_bytes());
                self.reply(option, answer::META_CONTEXT, &bytes.0, out);
            }
        }
        if is_set {
            self.contexts = Some((volume.name().into(), contexts));
        }
        self.reply(option, answer::ACK, b"", out);
    }

    fn info(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        let Some((name, wanted)) = parse::info(data) else {
            self.invalid(option, "its data is invalid", out);
            return Next::Option;
        };
        let Some(volume) = self.volumes.find(name) else {
            self.reply(option, answer::ERR_UNKNOWN, UNKNOWN, out);
            return Next::Option;
        };
        let chosen = self.chosen(volume);
        for kind in [info::EXPORT, info::NAME, info::DESCRIPTION, info::BLOCK_SIZE] {
            if kind == info::EXPORT || wanted.contains(&kind) {
                self.reply(option, answer::INFO, &chosen.info(kind), out);
            }
        }
        self.reply(option, answer::ACK, b"", out);
        if option == option::GO { Next::Transmission(chosen) } else { Next::Option }
    }

    fn chosen(&self, volume: Arc<Volume>) -> Chosen {
        let contexts = self.contexts.as_ref().filter(|(name, _)| name == volume.name());
        let contexts = contexts.map_or(Contexts::default(), |&(_, contexts)| contexts);
        Chosen { volume, format: self.format, contexts }
    }
}

const UNKNOWN: &[u8] = b"there is no such export";

impl Chosen {
    /// Returns the flags of the export.
    fn flags(&self) -> u16 {
        let mut flags = export::HAS_FLAGS
            | export::SEND_FLUSH
            | export::SEND_FUA
            | export::SEND_TRIM
            | export::SEND_WRITE_ZEROES
            | export::CAN_MULTI_CONN
            | export::SEND_CACHE
            | export::SEND_FAST_ZERO;
        if self.format != ReplyFormat::Simple {
            flags |= export::SEND_DF;
        }
        if self.format == ReplyFormat::Extended && !self.contexts.is_empty() {
            flags |= export::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }

    fn info(&self, kind: u16) -> Vec<u8> {
        let mut bytes = Bytes::default();
        bytes.u16(kind);
        match kind {
            info::NAME => bytes.raw(self.volume.name().as_bytes()),
            info::DESCRIPTION => bytes.raw(describe(&self.volume).as_bytes()),
            info::BLOCK_SIZE => {
                let block = u32::try_from(self.volume.block_bytes()).unwrap_or(parse::PAYLOAD_MAX);
                bytes.u32(1).u32(block.min(parse::PAYLOAD_MAX)).u32(parse::PAYLOAD_MAX)
            }
            _ => bytes.u64(self.volume.size_bytes()).u16(self.flags()),
        };
        bytes.0
    }
}

fn describe(volume: &Volume) -> String {
    format!("a clone in regions of {} KiB", volume.region_bytes() / 1024)
}
