//! Many ranges of addresses, tested at once.
//!
//! Of two ranges one holds the other, or they have nothing in common. So which ranges hold an address is known
//! from the narrowest that does: that one and all around it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{count, push};

/// Ranges, sorted by their first address, wider ones first.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    v4: Vec<Range>,
    v6: Vec<Range>,
}

#[derive(Debug)]
struct Range {
    first: u128,
    last: u128,
    /// The place of the narrowest range around this one.
    around: Option<usize>,
}

impl Ranges {
    pub(super) fn new(ranges: &[IpNet]) -> Self {
        let of = |v4: bool| {
            let bounds = ranges.iter().filter(|range| range.addr().is_ipv4() == v4).map(bounds);
            nested(bounds.collect())
        };
        Self { v4: of(true), v6: of(false) }
    }

    /// Writes which ranges hold `address`.
    pub(super) fn write_address(&self, address: &IpAddr, key: &mut Vec<u8>) {
        let number = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        self.write((number, number), address.is_ipv4(), key);
    }

    /// Writes which ranges hold all addresses from `first` to `last`, of IPv4 or IPv6. O(log ranges + depth), of which the depth is up to 129.
    pub(super) fn write(&self, (first, last): (u128, u128), v4: bool, key: &mut Vec<u8>) {
        if self.v4.is_empty() && self.v6.is_empty() {
            return;
        }
        let (ranges, before) = if v4 { (&self.v4, 1) } else { (&self.v6, self.v4.len().saturating_add(1)) };
        // What begins last before it, or a range around that one.
        let mut found = ranges.partition_point(|range| range.first <= first).checked_sub(1);
        while let Some(place) = found {
            match ranges.get(place) {
                Some(range) if range.last < last => found = range.around,
                _ => break,
            }
        }
        push(found.map_or(0, |place| count(place.saturating_add(before))), key);
    }
}

fn nested(mut bounds: Vec<(u128, u128)>) -> Vec<Range> {
    bounds.sort_unstable_by_key(|(first, last)| (*first, std::cmp::Reverse(*last)));
    bounds.dedup();
    let mut ranges: Vec<Range> = Vec::with_capacity(bounds.len());
    for (first, last) in bounds {
        let mut around = ranges.len().checked_sub(1);
        while let Some(outer) = around.and_then(|place| ranges.get(place)) {
            if outer.last >= last {
                break;
            }
            around = outer.around;
        }
        ranges.push(Range { first, last, around });
    }
    ranges
}

/// The first address of a range and the last.
pub(super) fn bounds(range: &IpNet) -> (u128, u128) {
    match range {
        IpNet::V4(range) => (u32::from(range.network()).into(), u32::from(range.broadcast()).into()),
        IpNet::V6(range) => (range.network().into(), range.broadcast().into()),
    }
}
