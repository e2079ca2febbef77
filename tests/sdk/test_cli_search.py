"""The command line of searches: modes, pages, sorting, groups, similar documents, facets."""

import json
from pathlib import Path

import pytest

from relsdk import Embedder, Index

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("i")
    documents = [
        {"id": f"d{i}", "title": f"手机 X{i % 5}00 开箱", "author": f"a{i % 4}", "year": 2000 + i % 6}
        for i in range(40)
    ]
    Index.build(folder / "x", documents, Embedder(FIXTURES / "encoder-bundle-v1", variant="fp32")).close()
    return str(folder / "x")


@pytest.fixture
def run(relsdk):
    def run(*arguments):
        code, out, err = relsdk(*arguments)
        assert code == 0, err
        return out

    return run


@pytest.fixture
def ask(run, index):
    """Query with options; return the answer and the ids of its hits."""

    def ask(*options):
        answer = json.loads(run("query", index, "X300 开箱", "--variant", "fp32", "--json", *options))
        return answer, [hit["id"] for hit in answer["hits"]]

    return ask


def test_modes(ask):
    answer, ids = ask("--mode", "lexical", "-k", "8")
    assert answer["order"] == "bm25"
    assert {int(one[1:]) % 5 for one in ids} == {3}
    signals = answer["hits"][0]["signals"]
    assert signals["lexical_rank"] == 1
    assert signals["bm25"] == answer["hits"][0]["score"]
    answer, _ = ask("--mode", "hybrid", "-k", "50")
    assert len(answer["hits"]) == 40
    assert ask()[0]["hits"][0]["signals"] is None


def test_pages_sorting_and_groups(ask):
    whole = ask("-k", "20")[1]
    assert ask("-k", "5", "--offset", "10")[1] == whole[10:15]
    hits = ask("-k", "40", "--sort=-year")[0]["hits"]
    years = [hit["metadata"]["year"] for hit in hits]
    assert years == sorted(years, reverse=True)
    assert len(ask("-k", "40", "--group-by", "author")[1]) == 4


def table(out):
    """Return the rows of a table of hits, without the heading and the header, split at blanks."""
    return [line.split() for line in out.splitlines()[2:]]


def test_the_table_has_ids_and_ranks_that_go_on_from_page_to_page(run, index, ask, monkeypatch):
    whole = ask("-k", "12")[1]
    rows = table(run("query", index, "X300 开箱", "--variant", "fp32", "-k", "3", "--offset", "9"))
    assert [row[0] for row in rows] == ["10", "11", "12"]
    assert [next(cell for cell in row if cell in whole) for row in rows] == whole[9:]
    monkeypatch.setenv("COLUMNS", "70")  # no room: the probabilities' numbers stay, their bar goes
    out = run("query", index, "X300 开箱", "--variant", "fp32")
    assert "█" not in out
    assert whole[0] in table(out)[0]
    assert "P(0)" in out


def test_the_table_shows_what_hits_were_sorted_and_grouped_by(run, index):
    out = run("query", index, "X300 开箱", "--variant", "fp32", "--sort=-year", "--group-by", "author")
    header = out.splitlines()[1].split()
    assert header[-4:] == ["id", "year", "author", "title"]
    years = [int(row[-5]) for row in table(out)]  # the title is three words
    assert years == sorted(years, reverse=True)
    assert sorted(row[-4] for row in table(out)) == ["a0", "a1", "a2", "a3"]
    twice = run("query", index, "X300 开箱", "--variant", "fp32", "--sort", "year", "--group-by", "year")
    assert twice.splitlines()[1].count("year") == 1
    assert (
        run("query", index, "X300 开箱", "--variant", "fp32", "--sort", "id").splitlines()[1].count("id") == 1
    )


def test_facets_of_objects_say_that_there_is_nothing_to_count(relsdk, tmp_path):
    documents = [{"id": "a", "title": "开箱", "by": {"name": "a1"}}]
    Index.build(tmp_path / "x", documents, Embedder(FIXTURES / "encoder-bundle-v1", variant="fp32")).close()
    code, out, err = relsdk("index", "facets", tmp_path / "x", "by")
    assert (code, out) == (0, "")
    assert "'by'" in err
    assert "a1" in relsdk("index", "facets", tmp_path / "x", "by.name")[1]


def test_a_field_with_the_name_of_a_column_is_a_column_of_its_own(run, tmp_path):
    documents = [{"id": f"d{i}", "title": "开箱", "score": i} for i in range(3)]
    Index.build(
        tmp_path / "x", documents, Embedder(FIXTURES / "encoder-bundle-v1", variant="fp32"), lexical=False
    ).close()
    out = run("query", tmp_path / "x", "开箱", "--variant", "fp32", "--sort=-score")
    assert out.splitlines()[1].split().count("score") == 1
    assert "metadata.score" in out
    assert [row[-2] for row in table(out)] == ["2", "1", "0"]


def test_similar(run, index):
    answer = json.loads(run("index", "similar", index, "d3", "-k", "3", "--json"))
    with Index.open(index) as opened:
        assert [hit["id"] for hit in answer["hits"]] == [h.document.id for h in opened.similar("d3", 3)]
    assert "d3" not in run("index", "similar", index, "d3", "-k", "3").split()
    assert run("index", "similar", index, "d3", "--where", "author=a1").count("X") <= 10


def test_facets(run, index):
    answer = json.loads(run("index", "facets", index, "author", "--where", "year>=2003", "--json"))
    assert answer["distinct"] == 4
    assert (
        sum(one["count"] for one in answer["values"]) == 19
    )  # years 2003 to 2005 of 40 documents: 6 of each, and one more
    table = run("index", "facets", index, "year", "-n", "2").split()
    assert "2000" in table
    assert "2002" not in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--offset", "-1"], "offset=-1"),
        (["--sort", "yaer"], "did you mean 'year'"),
        (["--group-by", "yaer"], "did you mean 'year'"),
        (["--sort", "year", "--format", "trec"], "leave out --sort"),
    ],
)
def test_wrong_options_are_told(fails, index, options, message):
    assert message in fails("query", index, "X", *options)


def test_an_index_may_have_8_bit_vectors_and_no_words(run, fails, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"id": "a", "title": "红烧肉"}\n', encoding="utf-8")
    model = FIXTURES / "encoder-bundle-v1"
    build = ("index", "build", tmp_path / "x", "-m", model, "-i", tmp_path / "d.jsonl", "--variant", "fp32")
    run(*build, "--int8", "--no-lexical")
    info = json.loads(run("index", "info", tmp_path / "x", "--json"))
    names = {name.rpartition("/")[2] for name in info["files"]}
    assert "codes.npy" in names
    assert "postings.bin" not in names
    assert "lexical=False" in fails("query", tmp_path / "x", "肉", "--variant", "fp32", "--mode", "hybrid")
