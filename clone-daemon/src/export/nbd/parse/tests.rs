use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{
    PAYLOAD_MAX, Request, RequestKind, Terms, Violation, greeting, info, meta_context, option,
    request, status_payload, string,
};
use crate::nbd_protocol::{command, errno, flag};

const COMPACT: Terms =
    Terms { size_bytes: 1 << 40, structured: false, extended: false, contexts: false };
const EXTENDED: Terms = Terms { structured: true, extended: true, contexts: true, ..COMPACT };

fn asked(command: u16, flags: u16, offset: u64, length: u64) -> Request {
    Request { flags, command, cookie: 1, offset, length }
}

#[test]
fn a_greeting_with_flags_that_were_not_offered_is_refused() {
    assert_eq!(greeting([0, 0, 0, 1]), Ok(false));
    assert_eq!(greeting([0, 0, 0, 3]), Ok(true));
    assert_eq!(greeting([0, 0, 0, 7]), Err(Violation::Greeting(7)));
    assert_eq!(greeting([0x80, 0, 0, 1]), Err(Violation::Greeting(0x8000_0001)));
}

#[test]
fn an_option_begins_with_its_magic() {
    let good = *b"IHAVEOPT\0\0\0\x07\0\0\x01\0";
    assert_eq!(option(&good), Ok((7, 256)));
    assert!(matches!(option(b"IHAVEOPS\0\0\0\x07\0\0\0\0"), Err(Violation::OptionMagic(_))));
}

#[test]
fn data_of_options_are_read_to_their_end_and_no_further() {
    assert_eq!(info(b"\0\0\0\x02ab\0\x02\0\x03\0\x01"), Some(("ab", vec![3, 1])));
    let queries = b"\0\0\0\x01a\0\0\0\x02\0\0\0\x02b:\0\0\0\0";
    assert_eq!(meta_context(queries), Some(("a", vec!["b:", ""])));
    for cut in 0..queries.len() {
        assert_eq!(meta_context(&queries[..cut]), None);
    }
    assert_eq!(info(b"\0\0\0\x02ab\0\0!"), None);
    assert_eq!(info(b"\xff\xff\xff\xffab\0\0"), None);
    assert_eq!(meta_context(b"\0\0\0\0\xff\xff\xff\xff"), None);
    assert_eq!(string(b"a\0b"), None);
    assert_eq!(string(b"\xff"), None);
    assert_eq!(string(&[b'a'; 4097]), None);
    let payload = b"\0\0\0\0\0\0\x10\0\0\0\0\x02\0\0\0\x01";
    assert_eq!(status_payload(payload), Some((4096, vec![2, 1])));
    assert_eq!(status_payload(&payload[..15]), None);
    assert_eq!(status_payload(&payload[..7]), None);
}

#[test]
fn requests_have_the_magic_that_was_agreed_on() {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(b"\x25\x60\x95\x13");
    bytes[27] = 9;
    assert_eq!(request(&bytes[..28], false).map(|request| request.length), Ok(9));
    assert_eq!(request(&bytes, true), Err(Violation::RequestMagic(0x2560_9513)));
    bytes[..4].copy_from_slice(b"\x21\xe4\x1c\x71");
    assert_eq!(request(&bytes, true).map(|request| request.length), Ok(9 << 32));
}

#[test]
fn a_payload_is_known_before_anything_else_and_is_bounded() {
    let write = |length| asked(command::WRITE, 0, 0, length);
    assert_eq!(write(PAYLOAD_MAX.into()).payload(false), Ok(PAYLOAD_MAX));
    let long = u64::from(PAYLOAD_MAX) + 1;
    assert_eq!(write(long).payload(false), Err(Violation::Payload(long)));
    // QEMU's client does not set the flag on its extended writes.
    assert_eq!(write(1).payload(true), Ok(1));
    assert_eq!(asked(command::READ, 0, 0, u64::MAX).payload(true), Ok(0));
    assert_eq!(asked(command::READ, flag::PAYLOAD_LEN, 0, 5).payload(true), Ok(5));
    // Without extended headers the flag means nothing.
    assert_eq!(asked(command::READ, flag::PAYLOAD_LEN, 0, 5).payload(false), Ok(0));
    let endless = asked(99, flag::PAYLOAD_LEN, 0, u64::MAX);
    assert_eq!(endless.payload(true), Err(Violation::Payload(u64::MAX)));
}

#[test]
fn what_makes_no_sense_is_answered_as_the_protocol_says() {
    let size = COMPACT.size_bytes;
    for (request, terms, error) in [
        (asked(command::READ, 0, size, 1), COMPACT, errno::EINVAL),
        (asked(command::READ, 0, u64::MAX, u64::MAX), EXTENDED, errno::EINVAL),
        (asked(command::TRIM, 0, size - 1, 2), COMPACT, errno::EINVAL),
        (asked(command::CACHE, 0, size, 1), COMPACT, errno::EINVAL),
        (asked(command::WRITE, 0, size, 1), COMPACT, errno::ENOSPC),
        (asked(command::WRITE_ZEROES, 0, size, 1), COMPACT, errno::ENOSPC),
        (asked(command::READ, 0, 0, (32 << 20) + 1), COMPACT, errno::EINVAL),
        (asked(command::READ, 0, 0, (32 << 20) + 1), EXTENDED, errno::EOVERFLOW),
        (asked(command::READ, flag::DF, 0, 1), COMPACT, errno::EINVAL),
        (asked(command::READ, flag::NO_HOLE, 0, 1), EXTENDED, errno::EINVAL),
        (asked(command::READ, flag::PAYLOAD_LEN, 0, 1), EXTENDED, errno::EINVAL),
        (asked(command::WRITE, flag::PAYLOAD_LEN, 0, 1), COMPACT, errno::EINVAL),
        (asked(command::FLUSH, 0, 0, 1), COMPACT, errno::EINVAL),
        (asked(command::FLUSH, 0, 1, 0), COMPACT, errno::EINVAL),
        (asked(command::CACHE, flag::REQ_ONE, 0, 1), COMPACT, errno::EINVAL),
        (asked(command::BLOCK_STATUS, 0, 0, 1), COMPACT, errno::EINVAL),
        (asked(command::BLOCK_STATUS, 0, 0, 0), EXTENDED, errno::EINVAL),
        (asked(command::RESIZE, 0, 0, 1), EXTENDED, errno::EINVAL),
        (asked(0xffff, 0, 0, 1), EXTENDED, errno::EINVAL),
        (asked(command::TRIM, 1 << 15, 0, 1), EXTENDED, errno::EINVAL),
    ] {
        assert_eq!(request.task(&terms), Err(error), "{request:?}");
    }
}

#[test]
fn what_makes_sense_is_understood() {
    let size = COMPACT.size_bytes;
    for (request, terms, task) in [
        (asked(command::READ, flag::FUA, size - 1, 1), COMPACT, RequestKind::Read { whole: false }),
        (asked(command::READ, flag::DF, 0, 1), EXTENDED, RequestKind::Read { whole: true }),
        (asked(command::WRITE, flag::PAYLOAD_LEN, 0, 1), EXTENDED, RequestKind::Write),
        (asked(command::FLUSH, flag::FUA, 0, 0), COMPACT, RequestKind::Flush),
        (asked(command::TRIM, flag::FUA, 0, size), COMPACT, RequestKind::Trim),
        (asked(command::CACHE, 0, size, 0), COMPACT, RequestKind::Cache),
        (
            asked(command::WRITE_ZEROES, flag::NO_HOLE, 0, size),
            EXTENDED,
            RequestKind::Zero { deallocate: false, fast: false },
        ),
        (
            asked(command::WRITE_ZEROES, flag::FAST_ZERO, 0, 1),
            COMPACT,
            RequestKind::Zero { deallocate: true, fast: true },
        ),
        (
            asked(command::BLOCK_STATUS, flag::REQ_ONE, 0, size),
            EXTENDED,
            RequestKind::Status { one: true, chosen: false },
        ),
        (
            asked(command::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, 12),
            EXTENDED,
            RequestKind::Status { one: false, chosen: true },
        ),
        (asked(command::DISC, 0, 0, 0), COMPACT, RequestKind::Disconnect),
    ] {
        assert_eq!(request.task(&terms), Ok(task), "{request:?}");
        assert!(request.durable() == (request.flags & flag::FUA != 0));
    }
}

#[test]
fn no_request_that_is_accepted_leaves_the_export() {
    let mut rng = StdRng::seed_from_u64(5);
    let number = |rng: &mut StdRng| {
        let near = COMPACT.size_bytes.wrapping_add(rng.next_u64() % 5).wrapping_sub(2);
        [rng.next_u64() % 1000, near, rng.next_u64(), 0][rng.next_u32() as usize % 4]
    };
    let mut accepted = 0;
    for _ in 0..100_000 {
        let (command, flags) = (rng.next_u32() % 10, rng.next_u32() % 64);
        let (offset, length) = (number(&mut rng), number(&mut rng));
        let request = asked(command as u16, flags as u16, offset, length);
        let terms = [COMPACT, EXTENDED][rng.next_u32() as usize % 2];
        let Ok(task) = request.task(&terms) else { continue };
        if matches!(task, RequestKind::Disconnect | RequestKind::Status { chosen: true, .. }) {
            continue;
        }
        accepted += 1;
        let end = request.offset.checked_add(request.length).expect("it fits");
        assert!(end <= terms.size_bytes, "{request:?}");
    }
    assert!(accepted > 500, "{accepted}");
}
