"""Files of JSON lines, and shards of them."""

import json

import pytest

from relsdk.errors import InputError
from relsdk.shards.runner import LocalRunner
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra._shards import map_shards, read_lines, shard_paths, write_lines, write_shards
from relsdk_training.ssra.job import Job
from tests.training.ssra import shard_works


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


@pytest.fixture
def make_shards(tmp_path):
    """Number the lines of four shards, with any number of workers: the stage's folder, notes and progress."""
    sources = tmp_path / "sources"
    sources.mkdir()
    write_shards(sources, "lines", ({"n": number} for number in range(11)), 3)

    def make(name, runner=None, opener=shard_works.number_lines, **options):
        folder, notes, progress = tmp_path / name, [], []
        folder.mkdir(exist_ok=True)
        job = Job(
            SsraConfig(),
            folder,
            0,
            {"log": [tmp_path / f"{name}.log"]},
            notes.append,
            lambda stage, done, total: progress.append((done, total)),
            runner or LocalRunner(),
        )
        assert map_shards(job, shard_paths(sources, "lines"), "out", opener, **options)
        return folder, notes, progress

    return make


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def log(folder):
    """The shards that were made, each by a process."""
    return [json.loads(line) for line in folder.with_suffix(".log").read_text().splitlines()]


def test_shards_of_two_workers_are_those_of_one(make_shards):
    one, _, progress = make_shards("one")
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    lines = [line for path in shard_paths(one, "out") for line in read_lines(path)]
    assert lines == [{"n": n, "shard": n // 3} for n in range(11)]
    two, _, progress = make_shards("two", LocalRunner(2))
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert contents(one) == contents(two)
    assert len({process for _, process in log(one)}) == 1
    assert len({process for _, process in log(two)} - {process for _, process in log(one)}) == 2
    assert make_shards("two", LocalRunner(2))[1:] == ([], [(4, 4)])
    assert len(log(two)) == 4  # nothing was made again
    alone, _, _ = make_shards("alone", LocalRunner(2), alone=True)
    assert {process for _, process in log(alone)} == {process for _, process in log(one)}


def test_a_damaged_shard_is_made_again(make_shards):
    folder, notes, _ = make_shards("out")
    whole = contents(folder)
    (folder / "out-00001.jsonl").write_bytes(whole["out-00001.jsonl"][:-20])  # still lines of JSON, but one
    (folder / "out-00002.jsonl").unlink()
    (folder / "sums/out-00003.jsonl.sha256").unlink()  # killed before it was said that the shard is done
    _, notes, progress = make_shards("out")
    assert notes == ["out-00001.jsonl: damaged, it is made again"]
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(shard for shard, _ in log(folder)) == [0, 1, 1, 2, 2, 3, 3]
    assert contents(folder) == whole


def test_what_was_made_of_a_shard_is_kept(make_shards):
    with pytest.raises(InputError, match="line 4"):
        make_shards("out", opener=shard_works.fail_at_4, at_once=1)
    folder, _, _ = make_shards("whole", at_once=1)
    assert sorted(path.name for path in (folder.parent / "out").iterdir()) == [
        "out-00000.jsonl",
        "part-out-00001-00000.jsonl",
        "sums",
    ]
    (folder.parent / "out/part-out-00001-00000.jsonl").write_text('{"n"')  # it cost an answer, but is lost
    out, _, _ = make_shards("out", at_once=1)
    assert contents(out) == contents(folder)
