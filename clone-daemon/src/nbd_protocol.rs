//! Numbers of the NBD protocol (`doc/proto.md`, "Values"). All fields are big-endian.

#![allow(clippy::big_endian_bytes, reason = "numbers of the protocol are big-endian")]

/// What a server says first: "NBDMAGIC".
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// What follows it, and what begins each option: "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What begins the reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// What begins a request with a length of 32 bits.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// What begins a request with a length of 64 bits.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// What begins a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// What begins a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// What begins a chunk of an extended reply.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of a request: magic 4, flags 2, type 2, cookie 8, offset 8, length 4.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of an extended request, whose length has 8.
pub const EXTENDED_REQUEST_BYTES: usize = 32;
/// Bytes of a simple reply: magic 4, error 4, cookie 8.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes before a structured chunk: magic 4, flags 2, type 2, cookie 8, length 4.
pub const STRUCTURED_REPLY_BYTES: usize = 20;
/// Bytes before an extended chunk: magic 4, flags 2, type 2, cookie 8, offset 8, length 8.
pub const EXTENDED_REPLY_BYTES: usize = 32;

/// The longest string of the protocol, in bytes.
pub const STRING_MAX: usize = 4096;

/// Flags of the server's and the client's greeting.
pub mod handshake {
    /// The server speaks fixed newstyle; so does the client.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// No 124 zeroes follow the answer to [`super::option::EXPORT_NAME`].
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Flags of an export.
pub mod export {
    /// The others mean something.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// It cannot be written to.
    pub const READ_ONLY: u16 = 1 << 1;
    /// There is [`super::command::FLUSH`].
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// There is [`super::flag::FUA`].
    pub const SEND_FUA: u16 = 1 << 3;
    /// It is a rotating disk.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// There is [`super::command::TRIM`].
    pub const SEND_TRIM: u16 = 1 << 5;
    /// There is [`super::command::WRITE_ZEROES`].
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// There is [`super::flag::DF`].
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what was answered on all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// There is the command RESIZE.
    pub const SEND_RESIZE: u16 = 1 << 9;
    /// There is [`super::command::CACHE`].
    pub const SEND_CACHE: u16 = 1 << 10;
    /// There is [`super::flag::FAST_ZERO`].
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// There is [`super::flag::PAYLOAD_LEN`] for [`super::command::BLOCK_STATUS`].
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Options that a client haggles with.
pub mod option {
    /// Choose an export, and end the haggling; a failure can only be told by hanging up.
    pub const EXPORT_NAME: u32 = 1;
    /// Hang up.
    pub const ABORT: u32 = 2;
    /// Name all exports.
    pub const LIST: u32 = 3;
    /// Go on under TLS.
    pub const STARTTLS: u32 = 5;
    /// Tell of an export.
    pub const INFO: u32 = 6;
    /// Choose an export, and end the haggling.
    pub const GO: u32 = 7;
    /// Structured replies from now on.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Name metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Extended headers from now on.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// The name of an export.
    pub const SERVER: u32 = 2;
    /// Something about an export: see [`super::info`].
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// In replies that are errors.
    pub const ERROR: u32 = 1 << 31;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// It is not allowed.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// It makes no sense.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// It cannot be done on this platform.
    pub const ERR_PLATFORM: u32 = ERROR | 4;
    /// Not without TLS.
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// The server shuts down.
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// The client must heed the block sizes.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR | 8;
    /// It is too long.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
    /// Extended headers are needed.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
}

/// What can be told about an export.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// Its proper name.
    pub const NAME: u16 = 1;
    /// A description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Block sizes: the least, the best, the most.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Requests.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Hang up.
    pub const DISC: u16 = 2;
    /// Make durable what was answered.
    pub const FLUSH: u16 = 3;
    /// A range is needed no more.
    pub const TRIM: u16 = 4;
    /// A range will be read soon.
    pub const CACHE: u16 = 5;
    /// A range is to read as zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Tell of a range.
    pub const BLOCK_STATUS: u16 = 7;
    /// Change the size.
    pub const RESIZE: u16 = 8;
}

/// Flags of requests.
pub mod flag {
    /// Answer when it is durable.
    pub const FUA: u16 = 1 << 0;
    /// Zeroes must be allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One chunk of data, or an error.
    pub const DF: u16 = 1 << 2;
    /// One extent of each context.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zeroes only if that is faster than writing them.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is that of a payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Chunks of replies.
pub mod chunk {
    /// In the flags: nothing follows.
    pub const DONE: u16 = 1 << 0;
    /// Nothing.
    pub const NONE: u16 = 0;
    /// An offset of 8 bytes, and data.
    pub const OFFSET_DATA: u16 = 1;
    /// An offset of 8 bytes, and the length of a hole in 4, also if headers are extended.
    pub const OFFSET_HOLE: u16 = 2;
    /// A context in 4 bytes, and extents: a length in 4, flags in 4.
    pub const BLOCK_STATUS: u16 = 5;
    /// A context in 4 bytes, how many extents in 4, and extents: a length in 8, flags in 8.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// In types that are errors.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error in 4 bytes, the length of a text in 2, and the text.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// Likewise, and an offset in 8 bytes.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Errors of requests.
pub mod errno {
    /// Not allowed; the export is read-only.
    pub const EPERM: u32 = 1;
    /// A device failed.
    pub const EIO: u32 = 5;
    /// There is no memory.
    pub const ENOMEM: u32 = 12;
    /// The request makes no sense.
    pub const EINVAL: u32 = 22;
    /// There is no room.
    pub const ENOSPC: u32 = 28;
    /// Too long.
    pub const EOVERFLOW: u32 = 75;
    /// Not with this flag, or not fast.
    pub const ENOTSUP: u32 = 95;
    /// The server shuts down.
    pub const ESHUTDOWN: u32 = 108;
}

/// Flags of extents in the context `base:allocation`.
pub mod allocation {
    /// Nothing is allocated.
    pub const HOLE: u32 = 1 << 0;
    /// It reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}

/// The context that tells of holes and zeroes.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Our context: which regions are hydrated.
pub const CLONE_HYDRATED: &str = "clone:hydrated";

/// Flags of extents in the context [`CLONE_HYDRATED`].
pub mod hydrated {
    /// The extent is on the destination.
    pub const HYDRATED: u32 = 1 << 0;
}
