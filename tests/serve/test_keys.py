"""Keys: where they come from, whom they let in, what they never tell."""

import logging
import socket
import statistics
import time
from itertools import pairwise

import pytest

from relsdk.errors import InputError
from relsdk_serve._keys import Keys, check_address

READ, WRITE, OTHER = "r" * 16, "w" * 24, "o" * 32


def key_file(tmp_path, text, mode=0o600):
    path = tmp_path / "keys"
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


@pytest.fixture
def keys(tmp_path):
    text = f"# of the shop\nread:{READ}\r\n\n  write:{WRITE}  # of the importer\n"
    return Keys.read(key_file(tmp_path, text), {"RELSDK_SERVE_KEYS": f"{OTHER}, "})


@pytest.mark.parametrize(
    ("name", "value", "role"),
    [
        ("authorization", f"Bearer {READ}", "read"),
        ("authorization", f"bearer  {WRITE} ", "write"),
        ("authorization", f"BEARER {OTHER}", "write"),  # a bare key writes
        ("api-key", READ, "read"),
        ("x-api-key", WRITE, "write"),
        ("authorization", f"Basic {WRITE}", None),
        ("authorization", WRITE, None),
        ("authorization", "Bearer", None),
        ("authorization", "", None),
        ("cookie", f"api-key={WRITE}", None),
        ("x-api-key", f"{WRITE}x", None),
        ("x-api-key", WRITE[:-1], None),
        ("x-api-key", f"write:{WRITE}", None),
        ("x-api-key", "", None),
        ("x-api-key", "\xff\x00", None),
    ],
)
def test_the_header_that_has_the_key(keys, name, value, role):
    assert keys.role([(b"host", b"x"), (name.encode(), value.encode("latin-1"))]) == role


def test_each_header_has_one_chance_and_the_stronger_role_counts(keys):
    assert keys.role([(b"authorization", b"Basic abc"), (b"x-api-key", READ.encode())]) == "read"
    both = [(b"api-key", READ.encode()), (b"x-api-key", WRITE.encode())]
    assert keys.role(both) == keys.role(both[::-1]) == "write"
    assert keys.role([(b"x-api-key", b"wrong"), (b"x-api-key", WRITE.encode())]) is None
    assert keys.role([]) is None


def test_no_source_is_no_key():
    keys = Keys.read(None, {})
    assert not keys
    assert keys.role([(b"x-api-key", b"")]) is None


def test_a_key_is_never_shown(keys):
    assert keys
    for key in (READ, WRITE, OTHER):
        assert key not in f"{keys!r} {keys} {vars(keys)}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no key"),
        ("# nothing\n\n", "has no key"),
        ("read:\n", "line 1: the key has 0 characters; 16 are the least"),
        ("\nabcdefghijklmno", "line 2: the key has 15 characters"),
        ("reed:abcdefghijklmnop", "line 1: in front of the colon is no role"),
        ("Write:abcdefghijklmnop", "no role"),
        ("abcdefgh:ijklmnopqrst", "no role"),
        ("abcdefghijklmnöp", "other characters"),
        ("abcdefgh ijklmnop", "other characters"),
        ("abcdefgh,ijklmnop", "other characters"),
        ("abcdefgh=ijklmnop", "other characters"),
        ("\ufeffabcdefghijklmnop", "other characters"),
        ("read:abcdefghijklmnop\nwrite:abcdefghijklmnop", "line 2: this key is there twice"),
    ],
)
def test_a_bad_key_is_refused_with_its_line_and_not_shown(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as refused:
        Keys.read(key_file(tmp_path, text), {})
    assert "abcdefgh" not in str(refused.value)


def test_a_key_of_the_environment_is_checked_as_well(tmp_path):
    with pytest.raises(InputError, match="RELSDK_SERVE_KEYS is set and has no key"):
        Keys.read(None, {"RELSDK_SERVE_KEYS": " , "})
    with pytest.raises(InputError, match="RELSDK_SERVE_KEYS, key 2: the key has 5 characters"):
        Keys.read(None, {"RELSDK_SERVE_KEYS": f"{READ},short"})
    with pytest.raises(InputError, match="RELSDK_SERVE_KEYS, key 1: this key is there twice"):
        Keys.read(key_file(tmp_path, READ), {"RELSDK_SERVE_KEYS": READ})


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the key file .*No such file"):
        Keys.read(tmp_path / "absent", {})
    with pytest.raises(InputError, match=r"cannot read the key file .*directory"):
        Keys.read(tmp_path, {})
    with pytest.raises(InputError, match=r"more than 1,048,576 bytes"):
        Keys.read(key_file(tmp_path, "#" * (1 << 20) + "#"), {})


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False), (0o600, False)])
def test_a_file_that_everybody_reads_is_warned_of(tmp_path, caplog, mode, warned):
    with caplog.at_level(logging.WARNING):
        assert Keys.read(key_file(tmp_path, READ, mode), {})
    assert ("chmod 600" in caplog.text) == warned
    assert READ not in caplog.text


def test_a_key_of_a_secret_that_is_a_link(tmp_path):
    """As Kubernetes mounts it."""
    key_file(tmp_path, READ)
    (tmp_path / "link").symlink_to("keys")
    assert Keys.read(tmp_path / "link", {}).role([(b"api-key", READ.encode())]) == "write"


def test_the_time_of_a_wrong_key_does_not_tell():
    """Medians of wrong keys that share 0, 31 and 63 characters, and of the right one, among many."""
    right = "k" * 64
    keys = Keys({**{f"{number:064}": "read" for number in range(20)}, right: "write"})
    shown = [[(b"x-api-key", key.encode())] for key in ("x" * 64, "k" * 31 + "x" * 33, "k" * 63 + "x", right)]
    times = [[] for _ in shown]
    for _ in range(3000):
        for own, headers in zip(times, shown, strict=True):
            started = time.perf_counter_ns()
            keys.role(headers)
            own.append(time.perf_counter_ns() - started)
    medians = sorted(statistics.median(own) for own in times)
    assert all(second - first < 0.2 * medians[0] for first, second in pairwise(medians)), medians


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost", "127.1", "0x7f.1"]
)
def test_loopback_needs_no_key(host):
    try:
        socket.getaddrinfo(host, 0)
    except OSError:
        pytest.skip(f"this machine does not read {host}")
    check_address(host, Keys({}), insecure=False)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "0", "10.0.0.1", "192.0.2.7", "::ffff:10.0.0.1", "fe80::1", "8.8.8.8"]
)
def test_another_address_needs_a_key(host):
    with pytest.raises(InputError, match="there is no key; pass --key-file FILE") as refused:
        check_address(host, Keys({}), insecure=False)
    assert "--insecure" in str(refused.value)
    check_address(host, Keys({}), insecure=True)
    check_address(host, Keys({READ: "read"}), insecure=False)


def test_a_name_counts_by_all_its_addresses(monkeypatch):
    own = [(socket.AF_INET, 1, 6, "", (address, 0)) for address in ("127.0.0.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: own)
    with pytest.raises(InputError, match="--host shop can be reached"):
        check_address("shop", Keys({}), insecure=False)
    del own[1]
    check_address("shop", Keys({}), insecure=False)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "[::1]", "127.0.0.1:80", "a" * 300, "a..b"])
def test_a_name_that_nobody_knows(host):
    with pytest.raises(InputError, match=r"pass an address of this machine or 127.0.0.1"):
        check_address(host, Keys({}), insecure=True)
