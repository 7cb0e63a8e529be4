//! Classifies IP addresses, and decides whether a granted name may resolve to one. Pure.
//!
//! Invariant: a resolved address is used only after [`check_address`] allowed it, and the connection goes to exactly
//! that address. So a name whose address changes between check and connection gains nothing. The ranges are those of
//! the IANA special-purpose registries (RFC 6890), plus the metadata services of the large clouds.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use plan::NetworkScope;

/// The scope that an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressScope {
    /// The internet.
    Public,
    /// This machine.
    Loopback,
    /// A private network: RFC 1918, carrier-grade NAT, unique local, or an IPv4 address embedded in an IPv6 one.
    Private,
    /// The local link.
    LinkLocal,
    /// A cloud's metadata service, which hands out credentials.
    Metadata,
    /// Multicast, unspecified, reserved or documentation: no server answers there.
    Special,
}

impl fmt::Display for AddressScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Loopback => "this machine",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata service",
            Self::Special => "a reserved address",
        })
    }
}

/// Whether the DNS name `host` may resolve to `address`. IP literals are not checked here: a grant that matches one
/// names it.
pub(super) fn check_address(host: &str, address: IpAddr, network: NetworkScope) -> Result<(), AddressScope> {
    let scope = address_scope(address);
    let allowed = match scope {
        AddressScope::Public => true,
        AddressScope::Loopback => host == "localhost" || network == NetworkScope::Private,
        AddressScope::Private => network == NetworkScope::Private,
        AddressScope::LinkLocal | AddressScope::Metadata | AddressScope::Special => false,
    };
    if allowed { Ok(()) } else { Err(scope) }
}

/// The scope of an address.
pub(super) fn address_scope(address: IpAddr) -> AddressScope {
    match address {
        IpAddr::V4(address) => scope_v4(address),
        IpAddr::V6(address) => scope_v6(address),
    }
}

fn scope_v4(address: Ipv4Addr) -> AddressScope {
    match address.octets() {
        // Amazon, Azure, Google and others; Alibaba; Azure's wire server; Oracle.
        [169, 254, 169, 254] | [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => AddressScope::Metadata,
        [127, ..] => AddressScope::Loopback,
        [10, ..] | [192, 168, ..] | [192, 0, 0, _] => AddressScope::Private,
        [172, second, ..] if second & 0xf0 == 16 => AddressScope::Private,
        [100, second, ..] if second & 0xc0 == 64 => AddressScope::Private,
        [198, 18 | 19, ..] => AddressScope::Private,
        [169, 254, ..] => AddressScope::LinkLocal,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => AddressScope::Special,
        [0, ..] | [224..=255, ..] => AddressScope::Special,
        _ => AddressScope::Public,
    }
}

fn scope_v6(address: Ipv6Addr) -> AddressScope {
    if address.is_loopback() {
        return AddressScope::Loopback;
    }
    match address.segments() {
        // Amazon's and Google's metadata services.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => AddressScope::Metadata,
        // IPv4-mapped, NAT64 (RFC 6052), 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            embedded_v4_scope(high, low)
        }
        // IPv4-compatible and unspecified, NAT64 with a local prefix, Teredo, discard, documentation, multicast.
        [0, 0, 0, 0, 0, 0, ..]
        | [0x64, 0xff9b, 1, ..]
        | [0x2001, 0, ..]
        | [0x100, 0, 0, 0, ..]
        | [0x2001, 0xdb8, ..]
        | [0x3fff, 0..=0xfff, ..]
        | [0xff00..=0xffff, ..] => AddressScope::Special,
        [first, ..] if first & 0xffc0 == 0xfe80 => AddressScope::LinkLocal,
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => AddressScope::Private,
        _ => AddressScope::Public,
    }
}

/// An IPv4 address inside an IPv6 one counts as private at best, because it hides its target.
fn embedded_v4_scope(high: u16, low: u16) -> AddressScope {
    let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
    match scope_v4(Ipv4Addr::new(a, b, c, d)) {
        AddressScope::Public | AddressScope::Loopback | AddressScope::Private => AddressScope::Private,
        scope @ (AddressScope::LinkLocal | AddressScope::Metadata | AddressScope::Special) => scope,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_range_is_classified() {
        for (text, expected) in [
            ("1.1.1.1", AddressScope::Public),
            ("172.15.255.255", AddressScope::Public),
            ("172.32.0.0", AddressScope::Public),
            ("100.63.255.255", AddressScope::Public),
            ("2606:4700::1111", AddressScope::Public),
            ("127.0.0.1", AddressScope::Loopback),
            ("127.255.255.254", AddressScope::Loopback),
            ("::1", AddressScope::Loopback),
            ("10.0.0.7", AddressScope::Private),
            ("172.16.0.1", AddressScope::Private),
            ("172.31.255.255", AddressScope::Private),
            ("192.168.1.1", AddressScope::Private),
            ("100.64.0.1", AddressScope::Private),
            ("100.127.255.255", AddressScope::Private),
            ("fd12:3456::1", AddressScope::Private),
            ("fec0::1", AddressScope::Private),
            ("::ffff:1.1.1.1", AddressScope::Private),
            ("::ffff:127.0.0.1", AddressScope::Private),
            ("64:ff9b::10.0.0.1", AddressScope::Private),
            ("2002:0a00:0001::", AddressScope::Private),
            ("169.254.1.1", AddressScope::LinkLocal),
            ("fe80::1", AddressScope::LinkLocal),
            ("febf::1", AddressScope::LinkLocal),
            ("::ffff:169.254.1.1", AddressScope::LinkLocal),
            ("169.254.169.254", AddressScope::Metadata),
            ("64:ff9b::169.254.169.254", AddressScope::Metadata),
            ("2002:a9fe:a9fe::1", AddressScope::Metadata),
            ("100.100.100.200", AddressScope::Metadata),
            ("168.63.129.16", AddressScope::Metadata),
            ("fd00:ec2::254", AddressScope::Metadata),
            ("0.0.0.0", AddressScope::Special),
            ("224.0.0.1", AddressScope::Special),
            ("255.255.255.255", AddressScope::Special),
            ("203.0.113.9", AddressScope::Special),
            ("::", AddressScope::Special),
            ("::7f00:1", AddressScope::Special),
            ("2001::1", AddressScope::Special),
            ("64:ff9b:1::a00:1", AddressScope::Special),
            ("ff02::1", AddressScope::Special),
        ] {
            assert_eq!(address_scope(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn name_resolves_only_to_granted_scopes() {
        let cases = [
            ("shop.example", "1.1.1.1", true, true),
            ("shop.example", "127.0.0.1", false, true),
            ("localhost", "127.0.0.1", true, true),
            ("localhost", "::1", true, true),
            ("localhost", "10.0.0.1", false, true),
            ("shop.example", "10.0.0.1", false, true),
            ("shop.example", "::ffff:1.1.1.1", false, true),
            ("shop.example", "169.254.169.254", false, false),
            ("localhost", "169.254.169.254", false, false),
            ("shop.example", "fe80::1", false, false),
            ("shop.example", "0.0.0.0", false, false),
            ("shop.example", "ff02::1", false, false),
        ];
        for (host, address, public, private) in cases {
            let address = address.parse().unwrap();
            assert_eq!(check_address(host, address, NetworkScope::Public).is_ok(), public, "{host} {address} public");
            assert_eq!(
                check_address(host, address, NetworkScope::Private).is_ok(),
                private,
                "{host} {address} private"
            );
        }
    }
}
