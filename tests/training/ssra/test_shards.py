"""Files of JSON lines, and shards of them."""

import pytest

from relsdk.errors import InputError
from relsdk_training.ssra._shards import read_lines, shard_paths, write_lines, write_shards


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_lines_in_shards(tmp_path, count, sizes):
    lines = [{"n": number} for number in range(count)]
    assert write_shards(tmp_path, "lines", iter(lines), 4) == count
    written = [list(read_lines(path)) for path in sorted(tmp_path.iterdir())]
    assert [len(shard) for shard in written] == sizes
    assert [line for shard in written for line in shard] == lines


def test_a_cut_off_line_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(InputError, match=r"x\.jsonl:2: damaged"):
        list(read_lines(tmp_path / "x.jsonl"))


def test_lines_and_shards(tmp_path):
    lines = [{"query": "红烧肉\n\u2028", "level": 3}, {}]
    for number in (1, 0):
        write_lines(tmp_path / f"pairs-{number:05}.jsonl", lines if number == 0 else iter(lines[:1]))
    paths = shard_paths(tmp_path, "pairs")
    assert [path.name for path in paths] == ["pairs-00000.jsonl", "pairs-00001.jsonl"]
    assert [list(read_lines(path)) for path in paths] == [lines, lines[:1]]
    paths[0].unlink()
    with pytest.raises(InputError, match=r"has pairs-00001\.jsonl where pairs-00000\.jsonl should be"):
        shard_paths(tmp_path, "pairs")
    with pytest.raises(InputError, match="holds no queries"):
        shard_paths(tmp_path, "queries")
