import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk.errors import BundleError, IndexFolderError
from relsdk.typed_json import _parse_json, convert_json, read_json


@dataclass(frozen=True)
class Part:
    size: Annotated[int, msgspec.Meta(ge=0, le=2**40)]


@dataclass(frozen=True)
class Whole:
    width: Annotated[int, msgspec.Meta(ge=1, le=100)]
    name: str = "x"
    kind: Literal["a", "b"] = "a"
    parts: tuple[Part, ...] = ()
    by_name: Mapping[str, Part] = field(default_factory=dict)
    best: Part | None = None
    anything: Mapping[str, Any] = field(default_factory=dict)


def read(path):
    return read_json(path, Whole, error=IndexFolderError, remedy="build it again")


def refused(path):
    with pytest.raises(IndexFolderError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message


def test_what_a_file_holds(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"width": 3, "parts": [{"size": 1}], "by_name": {"é": {"size": 2}}, "best": null}')
    assert read(path) == Whole(3, parts=(Part(1),), by_name={"é": Part(2)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"width": -1}, "width = -1: Expected `int` >= 1"),
        ({"width": 10**12}, "width = 1000000000000: Expected `int` <= 100"),
        ({"width": 2**70}, "width = 1180591620717411303424: Expected `int` <= 100"),
        ({"width": "32"}, "width = '32': Expected `int`, got `str`"),
        ({"width": 3.0}, "width = 3.0: Expected `int`, got `float`"),
        ({"width": True}, "width = True: Expected `int`, got `bool`"),
        ({"width": None}, "width = None: Expected `int`, got `null`"),
        ({}, "Object missing required field `width`"),
        ([], "its content: Expected `object`, got `array`"),
        (5, "its content = 5: Expected `object`"),
        ({"width": 1, "kind": "c"}, "kind = 'c': allowed are 'a', 'b'"),
        ({"width": 1, "parts": {}}, "parts: Expected `array`"),
        ({"width": 1, "parts": [{"size": 1}, {"size": "1"}]}, r"parts\[1\].size = '1'"),
        ({"width": 1, "parts": [{"size": 1, "surprise": 2}]}, r"parts\[0\]: unknown key 'surprise'"),
        (
            {"width": 1, "by_name": {"a": {"size": 1, "b": 2}}},
            r"by_name\[...\]: unknown key 'b'; known are size",
        ),
        ({"width": 1, "best": {"size": 1, "b": 2}}, "best: unknown key 'b'"),
        ({"width": 1, "Name": "x"}, "unknown key 'Name'"),
        ({"width": 1, "anything": []}, "anything: Expected `object`"),
    ],
)
def test_wrong_values_name_their_field(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(IndexFolderError, match=message):
        read(path)
    refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable JSON"),
        (b'{"width": 1', "not readable JSON"),
        (b"\xff\xfe", "not readable JSON"),
        (b'\xef\xbb\xbf{"width": 1}', "not readable JSON"),
        (b'{"width": 1, "width": 2}', "the key 'width' is there twice"),
        (b'{"width": 1, "anything": {"a": NaN}}', "NaN is no JSON number"),
        (b'{"width": 1, "anything": {"a": -Infinity}}', "-Infinity is no JSON number"),
        (b'{"width": 1, "anything": {"a": 1e999}}', "the number 1e999 is too large"),
        (b'{"width": 1, "name": "\\ud800"}', "surrogates not allowed"),
        (b'{"width": 1, "anything": {"\\uDC00": 1}}', "surrogates not allowed"),
        (b'{"width": ' + b"1" * 5000 + b"}", "not readable JSON"),
        (b'{"width": 1, "anything": {"a": ' + b"[" * 101 + b"]" * 101 + b"}}", "more than 100 levels"),
        (b'{"a":' * 200_000, "not readable JSON"),
    ],
)
def test_only_strict_json_is_read(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert message in refused(path)


def test_a_pair_of_surrogates_is_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"width": 1, "name": "\\ud83d\\ude84"}')
    assert read(path).name == "🚄"


def test_what_is_no_file_of_ours(tmp_path):
    assert "is missing" in refused(tmp_path / "none.json")
    (tmp_path / "folder.json").mkdir()
    assert "is not a regular file" in refused(tmp_path / "folder.json")
    os.mkfifo(tmp_path / "pipe.json")
    assert "is not a regular file" in refused(tmp_path / "pipe.json")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    assert "is not a regular file" in refused(tmp_path / "device.json")
    (tmp_path / "nowhere.json").symlink_to("gone")
    assert "is missing" in refused(tmp_path / "nowhere.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    assert "cannot read" in refused(tmp_path / "loop.json")
    with (tmp_path / "huge.json").open("wb") as stream:
        stream.truncate(2**31)
    assert "2,147,483,648 bytes" in refused(tmp_path / "huge.json")
    with pytest.raises(IndexFolderError, match="cannot read"):
        read(tmp_path / ("n" * 300))
    with pytest.raises(IndexFolderError, match="cannot read"):
        read(tmp_path / "a\0b")


def test_a_part_names_where_it_is():
    with pytest.raises(
        BundleError, match=r"^f\.json is damaged: settings\.parts\[0\]\.size = -1: .*; copy it$"
    ):
        convert_json(
            {"width": 1, "parts": [{"size": -1}]},
            Whole,
            where="f.json",
            error=BundleError,
            remedy="copy it",
            at="settings",
        )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES)
def test_any_value_is_read_as_it_was_written(value):
    try:
        content = json.dumps(value).encode()
        expected = json.loads(content)
    except UnicodeError:
        return
    try:
        found = _parse_json(content, where="f", error=BundleError, remedy="r")
    except BundleError:
        with pytest.raises(UnicodeEncodeError):  # the one thing that json takes and we do not
            json.dumps(expected, ensure_ascii=False).encode()
        return
    assert found == expected


@given(st.binary(max_size=40))
def test_any_bytes_end_in_a_value_or_in_our_error(content):
    try:
        value = _parse_json(content, where="f", error=BundleError, remedy="r")
    except BundleError:
        return
    assert not isinstance(value, float) or math.isfinite(value)
    with pytest.raises(BundleError):
        convert_json(value, Whole, where="f", error=BundleError, remedy="r")
