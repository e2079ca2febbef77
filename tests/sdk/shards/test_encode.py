"""Folders of parts: the same bytes whoever makes them, whole after every kill, and of one job alone."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from relsdk import Embedder, RelevanceScorer
from relsdk.errors import BundleError, InputError, LockedError, RelsdkError
from relsdk.files.atomic import hold_lock
from relsdk.formats import read_documents, read_queries, read_unlabelled_pairs
from relsdk.shards import encode_shards, open_runner, score_shards
from relsdk.shards.parts import part_paths, read_part, read_part_info
from relsdk.shards.runner import LocalRunner
from tests.sdk.shards.conftest import FIXTURES, contents
from tests.sdk.shards.works import KilledEncode

pytest.importorskip("pyarrow")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no checksum"),
    pytest.mark.usefixtures("small_parts"),
]


def rows_of(folder):
    """Return (info, columns) of the parts, in the order of their rows."""
    return sorted((read_part(path) for path in part_paths(folder)), key=lambda one: one[0].rows)


def column(folder, name):
    return np.concatenate([columns[name] for _, columns in rows_of(folder)])


def test_vectors_are_those_of_the_encoder(documents, encoder, tmp_path):
    summary = encode_shards(encoder, documents, tmp_path / "parts")
    embedder = Embedder(encoder)
    expected = list(read_documents(documents))
    assert list(column(tmp_path / "parts", "id")) == [document.id for document in expected]
    vectors = column(tmp_path / "parts", "vector")
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, embedder.encode_document(expected), atol=2e-6)
    tokens = embedder.tokenize([embedder.document_text(d) for d in expected], prompt_name="document")
    assert (summary.rows, summary.parts, summary.kept, summary.computed) == (100, 7, 0, 100)
    assert (summary.tokens, summary.truncated) == (sum(tokens.lengths), len(tokens.truncated))
    first = rows_of(tmp_path / "parts")[0][0]
    assert (first.model, first.fingerprint, first.variant) == (
        embedder.name,
        embedder.fingerprint,
        embedder.variant.name,
    )
    assert (first.rows, first.dimension, first.kind) == ((0, 16, 100), embedder.dimension, "document")


def test_queries_are_encoded_by_the_query_tower(tmp_path):
    source = tmp_path / "queries.txt"
    source.write_text("".join(f"红烧肉 {row}\n\n" for row in range(20)), encoding="utf-8")
    tower = FIXTURES / "tower-bundle-v1"
    encode_shards(tower, source, tmp_path / "parts", "query", truncate_dim=8)
    expected = list(read_queries(source))
    assert list(column(tmp_path / "parts", "id")) == [query.id for query in expected]
    vectors = Embedder(tower, truncate_dim=8).encode_query([query.text for query in expected])
    np.testing.assert_allclose(column(tmp_path / "parts", "vector"), vectors, atol=2e-6)


@pytest.mark.parametrize("bundle", ["encoder-bundle-v1", "scorer-bundle-v1"])
def test_scores_are_those_of_the_scorer(tmp_path, bundle):
    source = tmp_path / "pairs.jsonl"
    rows = [{"query": f"红烧肉 {row % 5}", "title": f"家常做法 {row}", "label": 1} for row in range(40)]
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    summary = score_shards(FIXTURES / bundle, source, tmp_path / "parts")
    pairs = list(read_unlabelled_pairs(source))
    expected = RelevanceScorer(FIXTURES / bundle).predict(pairs)
    folder = tmp_path / "parts"
    assert list(column(folder, "query")) == [query for query, _ in pairs]
    assert list(column(folder, "id")) == [document.id for _, document in pairs]
    np.testing.assert_allclose(column(folder, "score"), expected.scores, atol=2e-6)
    assert column(folder, "level").tolist() == expected.levels.tolist()
    for level in range(4):
        np.testing.assert_allclose(column(folder, f"p{level}"), expected.probabilities[:, level], atol=1e-5)
    assert (summary.rows, summary.parts) == (40, 3)
    assert summary.tokens > 40
    assert score_shards(FIXTURES / bundle, source, folder).computed == 0


class KillingRunner(LocalRunner):
    """Two workers: the first at row 32 is killed before its part is written, the first at row 64 after."""

    def __init__(self, notes):
        super().__init__(2)
        self.notes = notes

    def run(self, work, items):
        before = KilledEncode(work, 32, after=False, note=self.notes / "before")
        return super().run(KilledEncode(before, 64, after=True, note=self.notes / "after"), items)


def test_two_workers_that_are_killed_make_the_same_bytes(documents, encoder, tmp_path):
    encode_shards(encoder, documents, tmp_path / "one")
    folder, notes = tmp_path / "two", tmp_path / "notes"
    notes.mkdir()
    summary = encode_shards(encoder, documents, folder, runner=KillingRunner(notes))
    assert sorted(os.listdir(notes)) == ["after", "before"]
    assert contents(folder) == contents(tmp_path / "one")
    assert set(os.listdir(folder)) == set(contents(folder))
    assert (summary.computed, summary.parts) == (100, 7)
    assert Counter(column(folder, "id")) == Counter(f"v{row}" for row in range(100))


KILLED = """
import os, signal, sys
from relsdk.shards import encode_shards, plan

plan._LEAST_ROWS = 16

def die(stage, done, total):
    if stage == "documents" and done >= 48:
        os.kill(os.getpid(), signal.SIGKILL)

encode_shards(*sys.argv[1:4], on_progress=die)
"""


def test_a_driver_that_is_killed_goes_on_with_what_is_missing(documents, encoder, tmp_path):
    folder = tmp_path / "parts"
    command = [sys.executable, "-W", "ignore", "-c", KILLED, encoder, documents, folder]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment, timeout=100).returncode == -signal.SIGKILL
    left = contents(folder)
    assert len(left) == 3
    summary = encode_shards(encoder, documents, folder)
    assert (summary.kept, summary.computed) == (3, 52)
    encode_shards(encoder, documents, tmp_path / "one")
    assert contents(folder) == contents(tmp_path / "one")


def test_a_second_start_does_nothing(documents, encoder, tmp_path):
    folder = tmp_path / "parts"
    first = encode_shards(encoder, documents, folder)
    times = {path: path.stat().st_mtime_ns for path in part_paths(folder)}
    second = encode_shards(encoder, documents, folder)
    assert (second.kept, second.computed, second.rows_per_second, second.seconds_per_million) == (
        7,
        0,
        None,
        None,
    )
    assert (second.tokens, second.truncated) == (first.tokens, first.truncated)
    assert {path: path.stat().st_mtime_ns for path in part_paths(folder)} == times


def flip(content):
    """Change a byte in the middle, where the vectors are."""
    at = len(content) // 3
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_damaged_parts_are_made_again(documents, encoder, tmp_path, caplog):
    folder = tmp_path / "parts"
    encode_shards(encoder, documents, folder)
    whole = contents(folder)
    flipped, cut, empty, swapped, other, *_ = part_paths(folder)
    damaged = [flipped, cut, empty, swapped]
    flipped.write_bytes(flip(flipped.read_bytes()))
    cut.write_bytes(cut.read_bytes()[:-200])
    empty.write_bytes(b"")
    swapped.write_bytes(other.read_bytes())
    summary = encode_shards(encoder, documents, folder)
    assert summary.kept == 3
    assert summary.computed == sum(info.rows[1] - info.rows[0] for info in map(read_part_info, damaged))
    assert contents(folder) == whole
    assert all(path.name in caplog.text for path in damaged)
    assert caplog.text.count("it is made again now") == 4


def test_parts_of_another_job_are_refused(documents, encoder, tmp_path):
    folder, other = tmp_path / "parts", tmp_path / "other.jsonl"
    other.write_text('{"id": "1", "title": "大理", "text": "x"}\n', encoding="utf-8")
    encode_shards(encoder, documents, folder, variant="fp32")
    before = contents(folder)
    usual = {"model": encoder, "source": documents, "folder": folder, "variant": "fp32"}
    for changed, message in (
        ({"model": FIXTURES / "tower-bundle-v1"}, "another model"),
        ({"source": other}, "another input"),
        ({"variant": "int8_avx2"}, "another variant"),
        ({"truncate_dim": 8}, "another dimension"),
        ({"kind": "query", "reading": {"skip_empty": True}}, "another kind"),
        ({"reading": {"skip_empty": True}}, "read or graded otherwise"),
    ):
        with pytest.raises(InputError, match=f"holds 7 parts of .*{message}.*--overwrite"):
            encode_shards(**{**usual, **changed})
    assert contents(folder) == before
    summary = encode_shards(encoder, other, folder, overwrite=True)
    assert (summary.kept, summary.parts) == (0, 1)
    assert len(contents(folder)) == 1
    assert not set(contents(folder)) & set(before)


@pytest.mark.parametrize("name", ["s3:vectors", os.fsdecode(b"v\xff"), "year=2026"])
def test_folders_whose_names_mean_something_to_pyarrow(documents, encoder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for kept in (0, 7):
        assert encode_shards(encoder, documents, name).kept == kept


def test_folders_that_cannot_take_parts(documents, encoder, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("x")
    with pytest.raises(InputError, match=r"other things in it \(letter.txt\); nothing was touched"):
        encode_shards(encoder, documents, tmp_path / "home")
    spark = tmp_path / "spark"
    spark.mkdir()
    (spark / "part-00000-c000.snappy.parquet").write_text("x")  # somebody else's: not to be removed
    with pytest.raises(InputError, match=r"other things in it \(part-00000.*; nothing was touched"):
        encode_shards(encoder, documents, spark, overwrite=True)
    with pytest.raises(InputError, match="is a file; name a folder"):
        encode_shards(encoder, documents, documents)
    folder = tmp_path / "parts"
    folder.mkdir()
    with hold_lock(folder / ".lock"), pytest.raises(LockedError, match="is being filled by another process"):
        encode_shards(encoder, documents, folder)


def test_a_full_disk_says_so_and_leaves_whole_parts(documents, encoder, tmp_path):
    """A limit on the size of files stands for the disk: writing fails instead."""
    folder = tmp_path / "parts"
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(RelsdkError, match=r"cannot write .*/part-.*: File too large; check space"):
            encode_shards(encoder, documents, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(folder) == []


def test_a_model_that_changes_meanwhile_is_refused(documents, toy_bundle_copy, encoder, tmp_path):
    class Swap(LocalRunner):
        def run(self, work, items):
            target = Path(toy_bundle_copy)
            target.rename(target.with_name("before"))
            target.symlink_to(FIXTURES / "tower-bundle-v1")
            return super().run(work, items)

    with pytest.raises(BundleError, match="holds another model"):
        encode_shards(toy_bundle_copy, documents, tmp_path / "parts", runner=Swap())


def test_a_row_that_the_model_cannot_run_is_named(documents, encoder, tmp_path, monkeypatch):
    def fail(self, tokens, **options):
        raise BundleError("gives NaN or infinity for input 3")

    monkeypatch.setattr(Embedder, "encode_tokens", fail)
    monkeypatch.setattr(Embedder, "_check_runtime", lambda *_: None)
    with pytest.raises(
        BundleError, match=r"docs.jsonl, rows 1 to 16 \(input 0 is the first of them\): gives NaN"
    ):
        encode_shards(encoder, documents, tmp_path / "parts")


def test_rates():
    from relsdk.shards.folder import PartsSummary

    summary = PartsSummary(Path("x"), 10_000, 10, 2, 5, 0, computed=8_000, seconds=40.0)
    assert (summary.rows_per_second, summary.seconds_per_million) == (200.0, 5000.0)


@pytest.mark.parametrize("kind", ["pair", "", None])
def test_kinds(documents, encoder, tmp_path, kind):
    with pytest.raises(InputError, match="allowed are 'query' and 'document'"):
        encode_shards(encoder, documents, tmp_path / "parts", kind)


def test_threads_are_shared_among_workers(monkeypatch):
    from relsdk.shards import _pieces

    monkeypatch.setenv("RELSDK_THREADS", "5")
    assert [_pieces.threads_of_a_worker(open_runner(workers), None) for workers in (1, 2, 9)] == [5, 2, 1]
    assert _pieces.threads_of_a_worker(open_runner(2), 3) == 3
    assert _pieces.threads_of_a_worker(object(), None) == 1


class Elsewhere(LocalRunner):
    """Runs where another folder has the name of the parts' folder."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def run(self, work, items):
        for number, info in super().run(work, items):
            (self.folder / items[number].file_name).unlink()
            yield number, info


def test_a_part_that_is_not_in_the_folder_is_told(documents, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("relsdk.shards.folder._LISTING_SECONDS", 0.0)
    folder = tmp_path / "parts"
    with pytest.raises(RelsdkError, match=r"docs\.jsonl, rows .*: its part was made, but .* have it"):
        encode_shards(encoder, documents, folder, runner=Elsewhere(folder))


def test_a_machine_that_does_not_see_a_file_says_so(documents, encoder, tmp_path):
    works = []

    class Noting(LocalRunner):
        def run(self, work, items):
            works.append(work)
            return super().run(work, items)

    encode_shards(encoder, documents, tmp_path / "parts", runner=Noting())
    documents.unlink()
    with pytest.raises(InputError, match=r"the machine .* does not see .*docs\.jsonl; .* all machines have"):
        works[0].open()
