"""Which network addresses are this machine's, its network's, or everybody's."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_PUBLIC_V6 = ip_network("2000::/3")
"""All of IPv6 that is given out for use between networks."""
_TRANSLATED = ip_network("64:ff9b::/96")
"""IPv4 by way of a translator (RFC 6052); the address behind it counts."""
_NOT_PUBLIC = [
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments (RFC 6890); Python lets some of them pass as global
        "192.88.99.0/24",  # relays of 6to4, given up (RFC 7526)
        "2001::/23",  # protocol assignments, Teredo among them, which wraps IPv4
        "2002::/16",  # 6to4, which wraps IPv4
        "3fff::/20",  # documentation (RFC 9637); newer than some Pythons
    )
]


def is_public(address: str) -> bool:
    """Whether an IP address is one that everybody could reach: not private, loopback, link-local, multicast, ...

    IPv4 that is wrapped in IPv6 counts as what is inside. What is no address is not public.
    """
    try:
        inner = _unwrapped(ip_address(address))
    except ValueError:
        return False
    if isinstance(inner, IPv6Address) and inner not in _PUBLIC_V6:
        return False
    return inner.is_global and not inner.is_multicast and not any(inner in network for network in _NOT_PUBLIC)


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address


def is_loopback(host: str) -> bool:
    """Whether a URL's host, without brackets, is this machine by its name or address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
