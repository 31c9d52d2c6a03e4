"""Which network addresses a destination may connect to: the guard of our own network.

The check sits where the socket is made, so the address that was checked is the one connected to:
no second resolution, no redirect and no odd spelling comes between.
"""

import ipaddress
import socket
from typing import Literal

import httpx

from wearable_pipeline.errors import UsageError

Reach = Literal["public", "private", "loopback", "never"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressInfo = tuple[
    int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]
]

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64: an IPv4 address in disguise
        "64:ff9b:1::/48",
        "2002::/16",  # 6to4, the same
        "2001::/32",  # Teredo, the same
        "::/96",  # IPv4-compatible, the same; loopback is told apart before
        "fec0::/10",
        # Metadata services of clouds outside 169.254.0.0/16.
        "fd00:ec2::/32",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
    )
)


class RefusedAddressError(OSError):
    """The host leads to an address we do not connect to."""


def reach_of(address: Address) -> Reach:
    """Where an address leads; `never` is what no setting allows: link-local, metadata, disguise."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return reach_of(address.ipv4_mapped)
    if address.is_loopback:
        return "loopback"
    if (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or any(address in network for network in _NEVER if network.version == address.version)
    ):
        return "never"
    if address.is_private or not address.is_global:
        return "private"
    return "never" if address.is_reserved else "public"


class AddressGuard:
    """Makes sockets towards `allowed` reaches only; the connector's socket factory."""

    def __init__(self, allowed: frozenset[Reach]) -> None:
        self.allowed = allowed

    def __call__(self, info: AddressInfo) -> socket.socket:
        """A socket for `info`. Raises RefusedAddressError before anything is sent."""
        family, kind, protocol, _, address = info
        self.check(str(address[0]))
        return socket.socket(family, kind, protocol)

    def check(self, text: str) -> None:
        """Raise RefusedAddressError unless `text` is an allowed address in its usual spelling."""
        try:
            reach = reach_of(ipaddress.ip_address(text))
        except ValueError:
            raise RefusedAddressError("the host is no address in its usual spelling") from None
        if reach not in self.allowed:
            shown = "link-local or otherwise special" if reach == "never" else reach
            raise RefusedAddressError(f"the host leads to a {shown} address")


def guard_url(url: str, setting: str, *, allow_private: bool) -> AddressGuard:
    """The guard for a configured URL. Raises UsageError when the URL itself is not acceptable.

    HTTPS is required outside our own network: health data do not travel in the clear. A URL that
    names this machine outright (localhost, 127.0.0.1, ::1) is allowed that and no more.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise UsageError(f"{setting} is not a URL") from None
    host = parsed.host
    if parsed.scheme not in ("http", "https") or not host:
        raise UsageError(f"{setting} must start with https:// and name a host")
    if parsed.userinfo:
        raise UsageError(f"{setting} must not contain a user name or password")
    is_here = host in LOCAL_NAMES
    if parsed.scheme == "http" and not (is_here or allow_private):
        raise UsageError(f"{setting} must use https:// (http:// is for localhost)")
    allowed: frozenset[Reach]
    if is_here:
        allowed = frozenset({"loopback"})
    elif parsed.scheme == "http":
        allowed = frozenset({"private", "loopback"})
    elif allow_private:
        allowed = frozenset({"public", "private", "loopback"})
    else:
        allowed = frozenset({"public"})
    guard = AddressGuard(allowed)
    for address in _numeric(host):
        try:
            guard.check(address)
        except RefusedAddressError as error:
            raise UsageError(
                f"{setting} is refused: {error} ({_beside(setting)}=true allows private ones)"
            ) from None
    return guard


def _beside(setting: str) -> str:
    """The setting that allows private addresses: that of the same variables or of the same target."""
    if setting.isupper():
        return f"{setting.rsplit('_', 1)[0]}_ALLOW_PRIVATE"
    return f"{setting.rpartition('.')[0]}.allow_private"


def _numeric(host: str) -> list[str]:
    """The addresses a host spells in numbers, in any base and length; none for a name."""
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]
