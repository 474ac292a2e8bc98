//! The client's side of the negotiation ("Protocol phases").

use std::io;
use std::sync::Arc;
use std::time::Instant;

use nom::Parser;
use nom::number::complete::{be_u16, be_u32, be_u64};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::nbd_protocol::{
    BASE_ALLOCATION, MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, export, handshake, info, option,
    option_reply,
};
use crate::source::identity::{Identity, Version};
use crate::source::nbd::error::{NbdError, printable};
use crate::source::nbd::reply::ReplyFormat;
use crate::source::nbd::stream::Stream;

/// A negotiated export, and the features of a connection to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Size in bytes; fits into an `i64`.
    pub(super) size: u64,
    /// Flags of [`export`].
    pub(super) flags: u16,
    /// The server's description of the export.
    pub(super) description: Option<String>,
    pub(super) format: ReplyFormat,
    /// Number of the context `base:allocation`, if it was negotiated.
    pub(super) allocation: Option<u32>,
    /// Requests begin and end at multiples of this number of bytes, a power of two.
    pub(super) block_min: u32,
    /// Maximum length of a read in bytes, a multiple of `block_min`.
    pub(super) block_max: u32,
}

impl Export {
    /// Returns the properties that identify the export. The server's features are not among them,
    /// because an update of the server can change them.
    pub(super) fn identity(&self) -> Identity {
        let version = Version::Export {
            read_only: self.flags & export::READ_ONLY != 0,
            rotational: self.flags & export::ROTATIONAL != 0,
            description: self.description.clone(),
        };
        Identity { size_bytes: self.size, version }
    }
}

/// Settings for TLS.
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    /// The name that the server's certificate must be valid for.
    pub(super) name: ServerName<'static>,
}

/// The magic of servers without options ("Oldstyle negotiation").
const OLD_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Maximum number of replies to one option.
const REPLIES_MAX: usize = 256;
/// Maximum length of a reply to an option in bytes.
const REPLY_MAX: u32 = 64 << 10;
/// Maximum length of a read in bytes that every server accepts ("Block size constraints").
const PAYLOAD_MAX: u32 = 32 << 20;
/// Upper limit of the minimum block size in bytes ("`NBD_INFO_BLOCK_SIZE`").
const BLOCK_MIN_MAX: u32 = 64 << 10;

/// The final reply of the server to an option.
enum Answer {
    Done,
    Refused { reply: u32, text: String },
}

/// A negotiation in progress.
struct Greeting<'a> {
    stream: &'a mut Stream,
    deadline: Instant,
}

fn nonsense<T>(what: impl Into<String>) -> Result<T, NbdError> {
    Err(NbdError::Greeting(what.into()))
}

/// Negotiates an export with the server.
pub(super) fn greet(
    stream: &mut Stream,
    name: &str,
    tls: Option<&Tls>,
    deadline: Instant,
) -> Result<Export, NbdError> {
    let mut greeting = Greeting { stream, deadline };
    let (is_fixed, has_zeroes) = greeting.begin()?;
    let mut found = Export {
        size: 0,
        flags: 0,
        description: None,
        format: ReplyFormat::Simple,
        allocation: None,
        block_min: 1,
        block_max: PAYLOAD_MAX,
    };
    if !is_fixed {
        if tls.is_some() {
            return Err(NbdError::Tls("the server knows no options".into()));
        }
        greeting.export_name(name, has_zeroes, &mut found)?;
        return check(found);
    }
    if let Some(tls) = tls {
        greeting.start_tls(tls)?;
    }
    found.format = greeting.format()?;
    if found.format != ReplyFormat::Simple {
        found.allocation = greeting.allocation(name)?;
    }
    match greeting.go(name, &mut found)? {
        Answer::Done => {}
        Answer::Refused { reply: option_reply::ERR_UNSUP, .. } => {
            greeting.export_name(name, has_zeroes, &mut found)?;
        }
        Answer::Refused { reply, text } => {
            return Err(NbdError::Refused { what: "the export", reply, text });
        }
    }
    check(found)
}

/// Validates the server's description of an export.
fn check(mut found: Export) -> Result<Export, NbdError> {
    if i64::try_from(found.size).is_err() {
        return nonsense(format!("an export of {} bytes", found.size));
    }
    let least = found.block_min;
    if !least.is_power_of_two() || least > BLOCK_MIN_MAX || found.block_max < least {
        return nonsense(format!("blocks of {least} to {} bytes", found.block_max));
    }
    found.block_max = found.block_max.min(PAYLOAD_MAX) / least * least;
    if found.flags & export::HAS_FLAGS == 0 {
        found.flags = 0;
    }
    Ok(found)
}

impl Greeting<'_> {
    fn read<const N: usize>(&mut self) -> Result<[u8; N], NbdError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), NbdError> {
        let read = self.stream.read_all(into, self.deadline);
        read.map_err(|error| NbdError::io("cannot read the greeting of the NBD server", error))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), NbdError> {
        let written = self.stream.write(bytes, self.deadline);
        written.map_err(|error| NbdError::io("cannot greet the NBD server", error))
    }

    /// Exchanges the greetings. Returns whether the server supports options (fixed newstyle), and
    /// whether zeroes follow its reply to [`option::EXPORT_NAME`].
    fn begin(&mut self) -> Result<(bool, bool), NbdError> {
        let (magic, format) = numbers((be_u64, be_u64), &self.read::<16>()?)?;
        match (magic, format) {
            (MAGIC, OPTION_MAGIC) => {}
            (MAGIC, OLD_MAGIC) => return nonsense("it knows the oldstyle negotiation only"),
            _ => return nonsense(format!("it begins with {magic:#018x} {format:#018x}")),
        }
        let flags = numbers(be_u16, &self.read::<2>()?)?;
        let known = flags & (handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        self.write(&u32::from(known).to_be_bytes())?;
        let is_fixed = known & handshake::FIXED_NEWSTYLE != 0;
        Ok((is_fixed, known & handshake::NO_ZEROES == 0))
    }

    fn ask(&mut self, option: u32, data: &[u8]) -> Result<(), NbdError> {
        let Ok(len) = u32::try_from(data.len()) else { return nonsense("a name that is too long") };
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(data);
        self.write(&bytes)
    }

    /// Sends an option and passes each reply before the final one to `heed`.
    fn negotiation(
        &mut self,
        option: u32,
        data: &[u8],
        mut handle_reply: impl FnMut(u32, &[u8]) -> Result<(), NbdError>,
    ) -> Result<Answer, NbdError> {
        self.ask(option, data)?;
        for _ in 0..REPLIES_MAX {
            let header = self.read::<20>()?;
            let (magic, about, reply, len) = numbers((be_u64, be_u32, be_u32, be_u32), &header)?;
            if magic != OPTION_REPLY_MAGIC || about != option || len > REPLY_MAX {
                return nonsense(format!("{header:x?} in reply to option {option}"));
            }
            let mut payload = vec![0; len as usize];
            self.fill(&mut payload)?;
            match reply {
                option_reply::ACK if payload.is_empty() => return Ok(Answer::Done),
                option_reply::ERR_TLS_REQD => {
                    let text = printable(&payload);
                    return Err(NbdError::Refused { what: "a connection", reply, text });
                }
                reply if reply & option_reply::ERROR != 0 => {
                    return Ok(Answer::Refused { reply, text: printable(&payload) });
                }
                reply => handle_reply(reply, &payload)?,
            }
        }
        nonsense(format!("more than {REPLIES_MAX} replies to option {option}"))
    }

    fn start_tls(&mut self, tls: &Tls) -> Result<(), NbdError> {
        match self.negotiation(option::STARTTLS, &[], unexpected)? {
            Answer::Done => {}
            Answer::Refused { reply, text } => {
                return Err(NbdError::Refused { what: "TLS", reply, text });
            }
        }
        let secured = self.stream.secure(tls.config.clone(), tls.name.clone(), self.deadline);
        secured.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::Other => NbdError::Tls(error.to_string()),
            _ => NbdError::io("cannot agree on TLS with the NBD server", error),
        })
    }

    /// Negotiates the format of replies.
    fn format(&mut self) -> Result<ReplyFormat, NbdError> {
        let styles = [
            (option::EXTENDED_HEADERS, ReplyFormat::Extended),
            (option::STRUCTURED_REPLY, ReplyFormat::Structured),
        ];
        for (option, format) in styles {
            if let Answer::Done = self.negotiation(option, &[], unexpected)? {
                return Ok(format);
            }
        }
        Ok(ReplyFormat::Simple)
    }

    /// Selects the context `base:allocation`; `None` if the server does not have it.
    fn allocation(&mut self, name: &str) -> Result<Option<u32>, NbdError> {
        let mut data = string(name)?;
        data.extend(1_u32.to_be_bytes());
        data.extend(string(BASE_ALLOCATION)?);
        let mut context = None;
        let answer = self.negotiation(option::SET_META_CONTEXT, &data, |reply, payload| {
            let (rest, number) = parse(be_u32, payload)?;
            if reply != option_reply::META_CONTEXT || rest != BASE_ALLOCATION.as_bytes() {
                return nonsense("a context that was not requested");
            }
            match context.replace(number) {
                None => Ok(()),
                Some(_) => nonsense("the context is given twice"),
            }
        })?;
        Ok(match answer {
            Answer::Done => context,
            Answer::Refused { .. } => None,
        })
    }

    fn go(&mut self, name: &str, found: &mut Export) -> Result<Answer, NbdError> {
        let mut data = string(name)?;
        let wanted = [info::DESCRIPTION, info::BLOCK_SIZE];
        data.extend([2, wanted[0], wanted[1]].map(u16::to_be_bytes).concat());
        let mut seen = SeenInfo::default();
        let answer = self.negotiation(option::GO, &data, |reply, payload| {
            if reply != option_reply::INFO {
                return unexpected(reply, payload);
            }
            seen.once(payload)?;
            add_info(payload, found)
        })?;
        if matches!(answer, Answer::Done) && !seen.has(info::EXPORT) {
            return nonsense("it does not report the size of the export");
        }
        Ok(answer)
    }

    /// Selects the export by `EXPORT_NAME`, for old servers. They hang up if there is no such
    /// export.
    fn export_name(
        &mut self,
        name: &str,
        has_zeroes: bool,
        found: &mut Export,
    ) -> Result<(), NbdError> {
        string(name)?;
        self.ask(option::EXPORT_NAME, name.as_bytes())?;
        (found.size, found.flags) = numbers((be_u64, be_u16), &self.read::<10>()?)?;
        if has_zeroes {
            self.read::<124>()?;
        }
        Ok(())
    }
}

fn unexpected(reply: u32, _: &[u8]) -> Result<(), NbdError> {
    nonsense(format!("reply {reply} to an option that has none"))
}

/// Encodes a string: its length, then its bytes.
fn string(text: &str) -> Result<Vec<u8>, NbdError> {
    match u32::try_from(text.len()) {
        Ok(len) if text.len() <= crate::nbd_protocol::STRING_MAX => {
            Ok([&len.to_be_bytes()[..], text.as_bytes()].concat())
        }
        _ => nonsense("a name that is too long"),
    }
}

/// The information about an export so far: the first of each kind that is used here.
#[derive(Default)]
struct SeenInfo(Vec<(u16, Vec<u8>)>);

impl SeenInfo {
    /// Rejects information that contradicts an earlier one of the same kind.
    fn once(&mut self, payload: &[u8]) -> Result<(), NbdError> {
        let (rest, kind) = parse(be_u16, payload)?;
        match self.0.iter().find(|(seen, _)| *seen == kind) {
            Some((_, before)) if before != rest => nonsense(format!(
                "it reports information {kind} of the export twice, with different values"
            )),
            None if [info::EXPORT, info::DESCRIPTION, info::BLOCK_SIZE].contains(&kind) => {
                self.0.push((kind, rest.to_vec()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn has(&self, kind: u16) -> bool {
        self.0.iter().any(|(seen, _)| *seen == kind)
    }
}

/// Stores information about an export.
fn add_info(payload: &[u8], found: &mut Export) -> Result<(), NbdError> {
    let (rest, kind) = parse(be_u16, payload)?;
    match kind {
        info::EXPORT => (found.size, found.flags) = numbers((be_u64, be_u16), rest)?,
        info::DESCRIPTION => found.description = Some(String::from_utf8_lossy(rest).into_owned()),
        info::BLOCK_SIZE => {
            let (least, _best, most) = numbers((be_u32, be_u32, be_u32), rest)?;
            (found.block_min, found.block_max) = (least, most);
        }
        // Other kinds are not needed.
        _ => {}
    }
    Ok(())
}

type NomError<'a> = nom::error::Error<&'a [u8]>;

fn parse<'a, O>(
    mut parser: impl Parser<&'a [u8], Output = O, Error = NomError<'a>>,
    bytes: &'a [u8],
) -> Result<(&'a [u8], O), NbdError> {
    parser.parse(bytes).or_else(|_| nonsense("a message is too short"))
}

/// Parses numbers that take up all of `bytes`.
fn numbers<'a, O>(
    parser: impl Parser<&'a [u8], Output = O, Error = NomError<'a>>,
    bytes: &'a [u8],
) -> Result<O, NbdError> {
    match parse(parser, bytes)? {
        ([], numbers) => Ok(numbers),
        _ => nonsense("a message is too long"),
    }
}
