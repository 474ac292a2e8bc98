//! Limits on the number of connections, and the peers that they apply to.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use rustix::net::sockopt;

use crate::export::nbd::channel::Stream;

/// The other end of a connection, as the limits see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    /// A TCP address. For IPv6 it is the network, because a host can have any number of its
    /// addresses.
    Ip(IpAddr),
    /// A process, by its number.
    Process(i32),
    /// An unknown peer.
    Unknown,
}

/// Number of bits of the host part of an IPv6 address.
const HOST_BITS: u32 = 64;

impl Peer {
    pub(super) fn of(stream: &Stream) -> Self {
        let found = match stream {
            Stream::Tcp(stream) => stream.peer_addr().map(|address| Self::network(address.ip())),
            Stream::Unix(stream) => sockopt::socket_peercred(stream)
                .map(|who| Self::Process(who.pid.as_raw_nonzero().get()))
                .map_err(io::Error::from),
        };
        found.unwrap_or(Self::Unknown)
    }

    fn network(address: IpAddr) -> Self {
        Self::Ip(match address.to_canonical() {
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() >> HOST_BITS << HOST_BITS).into()
            }
            address => address,
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address @ IpAddr::V6(_)) => write!(f, "{address}/64"),
            Self::Ip(address) => address.fmt(f),
            Self::Process(number) => write!(f, "process {number}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// A limit on the connections that have selected a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// Connections of one peer to one volume. It leaves room for other peers at that volume, and
    /// for other volumes of that peer.
    PeerOfVolume,
    /// Connections of one peer.
    Peer,
    /// Connections to one volume.
    Volume,
    /// All connections.
    All,
}

impl Limit {
    /// All limits, in the order in which they are checked.
    pub(super) const ALL: [Self; 4] = [Self::PeerOfVolume, Self::Peer, Self::Volume, Self::All];

    /// Returns the value of the limit if there may be `most` connections in all.
    pub(super) fn of(self, most: usize) -> usize {
        let part = match self {
            Self::PeerOfVolume => 4,
            Self::Peer | Self::Volume => 2,
            Self::All => 1,
        };
        most.div_ceil(part)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerOfVolume => {
                "a peer may have a quarter of --nbd-connections connections to one clone"
            }
            Self::Peer => "a peer may have half of --nbd-connections connections",
            Self::Volume => "a clone may have half of --nbd-connections connections",
            Self::All => "the maximum of --nbd-connections is reached",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Limit, Peer};

    #[test]
    fn one_peer_leaves_room_for_others_at_its_clone_and_one_clone_for_others_of_its_peer() {
        for most in 1..300 {
            let [peer_of_volume, peer, volume, all] = Limit::ALL.map(|limit| limit.of(most));
            assert!(1 <= peer_of_volume && peer_of_volume <= peer && volume <= all);
            assert_eq!(all, most);
            if most >= 3 {
                assert!(peer_of_volume < peer && peer_of_volume < volume);
                assert!(peer < all && volume < all);
            }
        }
    }

    #[test]
    fn a_peer_is_a_host_whatever_its_address_is_called() {
        let peer = |text: &str| Peer::network(text.parse().unwrap());
        assert_eq!(peer("10.0.0.7"), peer("::ffff:10.0.0.7"));
        assert_ne!(peer("10.0.0.7"), peer("10.0.0.8"));
        assert_eq!(peer("2001:db8:1:2::7"), peer("2001:db8:1:2:3:4:5:6"));
        assert_ne!(peer("2001:db8:1:2::7"), peer("2001:db8:1:3::7"));
        assert_eq!(peer("2001:db8:1:2::7").to_string(), "2001:db8:1:2::/64");
    }
}
