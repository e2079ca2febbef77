"""Who may read and who may write: keys, and addresses that must not be open without one."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from relsdk.errors import InputError

__all__ = ["KEYS_VARIABLE", "Keys", "Role", "check_address"]

Role = Literal["read", "write"]
KEYS_VARIABLE = "RELSDK_SERVE_KEYS"

_ROLES: Mapping[str, Role] = {"read": "read", "write": "write"}
_LOGGER = logging.getLogger(__name__)
_LEAST_CHARACTERS = 16
_MAX_FILE_BYTES = 1 << 20
# What a Bearer token may consist of (RFC 6750, section 2.1). It has no colon: a misspelt role is no key.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_MAKE_ONE = "make one with: openssl rand -hex 24"


class Keys:
    """The keys of a server. Only their SHA-256 digests are kept, and nothing shows them.

    Args:
        keys: The role of each key.
    """

    def __init__(self, keys: Mapping[str, Role]) -> None:
        self._roles = tuple((_digest(key.encode("ascii")), role) for key, role in keys.items())

    @classmethod
    def read(cls, file: Path | None, environment: Mapping[str, str]) -> Keys:
        """Read the keys of a file and of the environment variable `RELSDK_SERVE_KEYS`.

        Args:
            file: A key a line, `read:KEY` or `write:KEY`; a bare KEY may write, too. `#` begins a comment.
            environment: The variable has keys with commas between them.

        Raises:
            InputError: A source is unreadable or has no key, or a key is too short, has a character that no
                header carries safely, or is there twice. The message never shows a key.
        """
        entries: list[tuple[str, str]] = []
        if file is not None:
            entries += _file_entries(file)
        if KEYS_VARIABLE in environment:
            parts = [part.strip() for part in environment[KEYS_VARIABLE].split(",")]
            found = [(f"{KEYS_VARIABLE}, key {at}", part) for at, part in enumerate(parts, 1) if part]
            if not found:
                raise InputError(f"{KEYS_VARIABLE} is set and has no key; unset it, or {_MAKE_ONE}")
            entries += found
        keys: dict[str, Role] = {}
        for place, entry in entries:
            key, role = _parse(place, entry)
            if key in keys:
                raise InputError(f"{place}: this key is there twice; remove one of them")
            keys[key] = role
        return cls(keys)

    def role(self, headers: Sequence[tuple[bytes, bytes]]) -> Role | None:
        """Return what the sender of a request may do; None without a known key.

        The time that it takes does not depend on how much of a wrong key is right: digests are compared, each
        in constant time, and always all of them.

        Args:
            headers: Names in lower case, as ASGI has them. Looked at are `authorization: Bearer KEY`,
                `api-key` and `x-api-key`, the first of each.
        """
        best: Role | None = None
        for candidate in _candidates(headers):
            digest = _digest(candidate)
            for known, role in self._roles:
                if hmac.compare_digest(known, digest) and best != "write":
                    best = role
        return best

    @staticmethod
    def sent(headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Return whether a request shows a key, right or wrong."""
        return any(_candidates(headers))

    def __bool__(self) -> bool:
        return bool(self._roles)

    def __repr__(self) -> str:
        return f"<{len(self._roles)} keys>"


def check_address(host: str, keys: Keys, *, insecure: bool) -> None:
    """Refuse an address that other machines reach while there is no key.

    Args:
        host: What the server shall listen on: an IPv4 or IPv6 address or a name.
        keys: The server's.
        insecure: Whether the user wants it open.

    Raises:
        InputError: The address is open, or nobody knows the name.
    """
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host}: {reason}; pass an address of this machine or 127.0.0.1") from None
    if keys or insecure or (host and all(_is_loopback(str(entry[4][0])) for entry in found)):
        return
    raise InputError(
        f"--host {host or '(empty)'} can be reached from other machines, and there is no key; pass "
        f"--key-file FILE or set {KEYS_VARIABLE} ({_MAKE_ONE}), or --insecure to let everybody read and write"
    )


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def _candidates(headers: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the keys that a request shows, at most one for each header that may have one."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in (b"authorization", b"api-key", b"x-api-key"):
            found.setdefault(name, value)
    scheme, _, bearer = found.pop(b"authorization", b"").strip().partition(b" ")
    if scheme.lower() == b"bearer":
        found[b"authorization"] = bearer
    return [value.strip() for value in found.values()]


def _file_entries(file: Path) -> list[tuple[str, str]]:
    """Return the lines of a key file that have a key, each with its place."""
    try:
        with file.open("rb") as stream:
            mode = file.stat().st_mode
            content = stream.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the key file {file}: {getattr(error, 'strerror', error)}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise InputError(f"{file} has more than {_MAX_FILE_BYTES:,} bytes; a key file has a key a line")
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        _LOGGER.warning("every user of this machine can read %s; run: chmod 600 %s", file, file)
    lines = content.decode("latin-1").splitlines()  # a byte that is not ASCII is refused with its line
    stripped = [(f"{file}, line {at}", line.partition("#")[0].strip()) for at, line in enumerate(lines, 1)]
    entries = [(place, entry) for place, entry in stripped if entry]
    if not entries:
        raise InputError(f"{file} has no key; write one a line ({_MAKE_ONE})")
    return entries


def _parse(place: str, entry: str) -> tuple[str, Role]:
    """Return key and role of an entry; the message of an error never shows it."""
    name, colon, key = entry.rpartition(":")
    role = _ROLES.get(name.strip()) if colon else "write"
    if role is None:
        raise InputError(f"{place}: in front of the colon is no role; write read:KEY, write:KEY or KEY")
    key = key.strip()
    if len(key) < _LEAST_CHARACTERS:
        raise InputError(
            f"{place}: the key has {len(key)} characters; {_LEAST_CHARACTERS} are the least ({_MAKE_ONE})"
        )
    if _TOKEN.fullmatch(key) is None:
        raise InputError(
            f"{place}: the key has other characters than letters and digits of ASCII, -._~+/ and = at its "
            f"end; {_MAKE_ONE}"
        )
    return key, role


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
