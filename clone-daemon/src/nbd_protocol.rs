//! Constants of the NBD protocol (`doc/proto.md`, "Values"). All fields are big-endian.

#![allow(clippy::big_endian_bytes, reason = "numbers of the protocol are big-endian")]

/// Magic at the beginning of the server's greeting: "NBDMAGIC".
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Magic after that, and at the beginning of each option: "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Magic of a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Magic of a request with a length of 32 bits.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a request with a length of 64 bits.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Magic of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Magic of a chunk of an extended reply.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Length of a request in bytes: magic 4, flags 2, type 2, cookie 8, offset 8, length 4.
pub const REQUEST_BYTES: usize = 28;
/// Length of an extended request in bytes: its length field has 8.
pub const EXTENDED_REQUEST_BYTES: usize = 32;
/// Length of a simple reply in bytes: magic 4, error 4, cookie 8.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Length of the header of a structured chunk in bytes: magic 4, flags 2, type 2, cookie 8,
/// length 4.
pub const STRUCTURED_REPLY_BYTES: usize = 20;
/// Length of the header of an extended chunk in bytes: magic 4, flags 2, type 2, cookie 8,
/// offset 8, length 8.
pub const EXTENDED_REPLY_BYTES: usize = 32;

/// Maximum length of a string in bytes.
pub const STRING_MAX: usize = 4096;

/// Flags of the greetings of the server and the client.
pub mod handshake {
    /// Fixed newstyle negotiation is supported.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// No 124 zeroes follow the reply to [`super::option::EXPORT_NAME`].
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Flags of an export.
pub mod export {
    /// The other flags are valid.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// The export is read-only.
    pub const READ_ONLY: u16 = 1 << 1;
    /// [`super::command::FLUSH`] is supported.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// [`super::flag::FUA`] is supported.
    pub const SEND_FUA: u16 = 1 << 3;
    /// The export is a rotating disk.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// [`super::command::TRIM`] is supported.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// [`super::command::WRITE_ZEROES`] is supported.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// [`super::flag::DF`] is supported.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers the answered writes of all connections.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// [`super::command::CACHE`] is supported.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// [`super::flag::FAST_ZERO`] is supported.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// [`super::flag::PAYLOAD_LEN`] is supported for [`super::command::BLOCK_STATUS`].
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Options of the negotiation.
pub mod option {
    /// Select an export and end the negotiation. The only error reply is to close the connection.
    pub const EXPORT_NAME: u32 = 1;
    /// Close the connection.
    pub const ABORT: u32 = 2;
    /// List the names of all exports.
    pub const LIST: u32 = 3;
    /// Start TLS.
    pub const STARTTLS: u32 = 5;
    /// Report information about an export.
    pub const INFO: u32 = 6;
    /// Select an export and end the negotiation.
    pub const GO: u32 = 7;
    /// Enable structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Enable extended headers.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options.
pub mod option_reply {
    /// Success.
    pub const ACK: u32 = 1;
    /// Name of an export.
    pub const SERVER: u32 = 2;
    /// Information about an export: see [`super::info`].
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Bit of all error replies.
    pub const ERROR: u32 = 1 << 31;
    /// The option is unknown.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// The option is not allowed.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// The option is malformed.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// The platform does not support the option.
    pub const ERR_PLATFORM: u32 = ERROR | 4;
    /// TLS is required.
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    /// The export does not exist.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// The server is shutting down.
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// The client must comply with the block sizes.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR | 8;
    /// The option is too long.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
    /// Extended headers are required.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
}

/// Kinds of information about an export.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// A description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Block sizes: minimum, preferred, maximum.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Requests.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Close the connection.
    pub const DISC: u16 = 2;
    /// Make all answered writes durable.
    pub const FLUSH: u16 = 3;
    /// Discard a range.
    pub const TRIM: u16 = 4;
    /// Prefetch a range.
    pub const CACHE: u16 = 5;
    /// Write zeroes to a range.
    pub const WRITE_ZEROES: u16 = 6;
    /// Report the status of a range.
    pub const BLOCK_STATUS: u16 = 7;
    /// Change the size of the export.
    pub const RESIZE: u16 = 8;
}

/// Flags of requests.
pub mod flag {
    /// Reply when the data are durable.
    pub const FUA: u16 = 1 << 0;
    /// Zeroes must stay allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// Reply with one chunk of data, or with an error.
    pub const DF: u16 = 1 << 2;
    /// Report one extent for each context.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Write zeroes only if that is faster than a write of data.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is the length of a payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Chunk types of replies.
pub mod chunk {
    /// Flag: the last chunk of the reply.
    pub const DONE: u16 = 1 << 0;
    /// No payload.
    pub const NONE: u16 = 0;
    /// An offset of 8 bytes, and data.
    pub const OFFSET_DATA: u16 = 1;
    /// An offset of 8 bytes, and the length of a hole in 4 bytes, even with extended headers.
    pub const OFFSET_HOLE: u16 = 2;
    /// A context of 4 bytes, and extents: a length of 4 and flags of 4.
    pub const BLOCK_STATUS: u16 = 5;
    /// A context of 4 bytes, the number of extents in 4, and extents: a length of 8 and flags of 8.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Bit of all error types.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error of 4 bytes, the length of a text in 2, and the text.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// The same, followed by an offset of 8 bytes.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Errors of replies to requests.
pub mod errno {
    /// Not permitted; the export is read-only.
    pub const EPERM: u32 = 1;
    /// I/O error.
    pub const EIO: u32 = 5;
    /// Out of memory.
    pub const ENOMEM: u32 = 12;
    /// The request is invalid.
    pub const EINVAL: u32 = 22;
    /// No space left.
    pub const ENOSPC: u32 = 28;
    /// The value is too large.
    pub const EOVERFLOW: u32 = 75;
    /// Not supported with this flag, or not fast.
    pub const ENOTSUP: u32 = 95;
    /// The server is shutting down.
    pub const ESHUTDOWN: u32 = 108;
}

/// Flags of extents in the context `base:allocation`.
pub mod allocation {
    /// The extent is not allocated.
    pub const HOLE: u32 = 1 << 0;
    /// The extent reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}

/// Context for holes and zeroes.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Context of this server: hydrated regions.
pub const CLONE_HYDRATED: &str = "clone:hydrated";

/// Flags of extents in the context [`CLONE_HYDRATED`].
pub mod hydrated {
    /// The extent is on the destination.
    pub const HYDRATED: u32 = 1 << 0;
}
