"""RelsdkEncoder in MTEB: the figures of tasks made here are those of `relsdk eval` and of scipy."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mteb")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of mteb's own imports
]

import mteb  # noqa: E402
from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import EncoderProtocol  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from relsdk import Document, Embedder  # noqa: E402
from relsdk.errors import InputError  # noqa: E402
from relsdk.integrations.mteb import RelsdkEncoder  # noqa: E402
from tests.toys import copy_bundle  # noqa: E402


def metadata(name, kind, main_score):
    return TaskMetadata(
        name=name,
        description="Made in a test.",
        reference=None,
        dataset={"path": "local/none", "revision": "1"},
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["zho-Hans"],
        main_score=main_score,
        date=("2026-01-01", "2026-01-01"),
        domains=["Web"],
        task_subtypes=[],
        license="mit",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
    )


@pytest.fixture(scope="module")
def documents(corpus):
    """130 texts, more than the hits that are measured; every second one has a title."""
    texts = [f"{one}，{other}" for one in corpus for other in corpus] + corpus[:9]
    return [{"id": f"d{n}", "title": "" if n % 2 else text[:4], "text": text} for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def judged(documents):
    """Queries, and labels 1 to 3 of a few documents each."""
    draw = random.Random(0)
    queries = [{"id": f"q{n}", "text": document["text"][2:9]} for n, document in enumerate(documents[::7])]
    qrels = {
        query["id"]: {one["id"]: draw.randint(1, 3) for one in draw.sample(documents, 4)} for query in queries
    }
    return queries, qrels


@pytest.fixture(scope="module", params=["encoder-bundle-v1", "tower-bundle-v1"])
def bundle(request, tmp_path_factory):
    return copy_bundle(request.param, tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture
def scores(documents, judged):
    """Evaluate an encoder on a retrieval task with these documents, queries and labels."""
    queries, qrels = judged

    class LocalRetrieval(AbsTaskRetrieval):
        metadata = metadata("LocalRetrieval", "Retrieval", "ndcg_at_10")

        def load_data(self, **_):
            split = {
                "corpus": Dataset.from_list(documents),
                "queries": Dataset.from_list(queries),
                "relevant_docs": qrels,
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return lambda encoder: evaluate(encoder, LocalRetrieval())


def write_files(folder, documents, queries, qrels):
    """Write what `relsdk eval` reads."""
    for name, rows in (("docs", documents), ("queries", queries)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lines = [f"{query} 0 {one} {label}" for query, labels in qrels.items() for one, label in labels.items()]
    (folder / "qrels.txt").write_text("\n".join(lines))


def figures(bundle, relsdk, folder):
    """What `relsdk eval` says of these files."""
    build = ("index", "build", folder / "index", "--model", bundle, "--input", folder / "docs.jsonl")
    assert relsdk(*build, "--variant", "fp32")[0] == 0
    files = ("--index", folder / "index", "--queries", folder / "queries.jsonl", folder / "qrels.txt")
    _, out, _ = relsdk("eval", *files, "--variant", "fp32", "--json")
    return json.loads(out)["ranking"]


def evaluate(encoder, task):
    result = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]


def test_a_retrieval_task_has_the_figures_of_relsdk_eval(bundle, scores, documents, judged, relsdk, tmp_path):
    measured = scores(RelsdkEncoder(bundle, variant="fp32"))
    write_files(tmp_path, documents, *judged)
    expected = figures(bundle, relsdk, tmp_path)
    for theirs, ours in (
        ("ndcg_at_10", "ndcg_at_10_linear"),
        ("map_at_100", "average_precision"),
        ("recall_at_100", "recall_at_100"),
        ("precision_at_10", "precision_at_10"),
        ("mrr_at_100", "mrr"),
    ):
        assert measured[theirs] == pytest.approx(expected[ours], abs=5.1e-6), theirs  # they round to 5 digits
    assert 0.02 < measured["ndcg_at_10"] < 0.98


def test_the_code_of_the_page_runs(documents, judged, relsdk, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bundle = copy_bundle("encoder-bundle-v1", tmp_path / "bundle", variants=["fp32"])
    write_files(tmp_path, documents, *judged)
    page = Path(__file__).resolve().parents[2] / "docs/integrations/mteb.md"
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text(encoding="utf-8"))
    capsys.readouterr()
    exec(compile(code, str(page), "exec"), {"__name__": "page"})
    score = float(capsys.readouterr().out.split()[-1])
    assert score == pytest.approx(figures(bundle, relsdk, tmp_path)["ndcg_at_10_linear"], abs=5.1e-6)


def test_an_sts_task_has_the_correlation_of_our_cosines(bundle, corpus):
    from scipy.stats import pearsonr, spearmanr

    left, right = zip(*[(one, f"{other}吗") for one in corpus for other in corpus[:5]], strict=True)
    grades = [random.Random(n).random() * 5 for n in range(len(left))]

    class LocalSTS(AbsTaskSTS):
        metadata = metadata("LocalSTS", "STS", "cosine_spearman")

        def load_data(self, **_):
            rows = {"sentence1": left, "sentence2": right, "score": grades}
            self.dataset, self.data_loaded = DatasetDict({"test": Dataset.from_dict(rows)}), True

    embedder = Embedder(bundle)
    first, second = (embedder.encode(list(texts), normalize_embeddings=True) for texts in (left, right))
    cosines = (first * second).sum(axis=1)
    measured = evaluate(RelsdkEncoder(embedder), LocalSTS())
    assert measured["spearman"] == pytest.approx(spearmanr(grades, cosines)[0], abs=1e-6)
    assert measured["pearson"] == pytest.approx(pearsonr(grades, cosines)[0], abs=1e-5)
    assert measured["cosine_spearman"] == measured["spearman"]


def test_queries_documents_and_other_texts_are_encoded_as_what_they_are(bundle, corpus):
    embedder = Embedder(bundle)
    encoder = RelsdkEncoder(embedder, prompt_name="document")
    assert isinstance(encoder, EncoderProtocol)
    texts = [{"text": corpus[:3]}, {"text": corpus[3:5]}]
    np.testing.assert_array_equal(
        encoder.encode(texts, prompt_type=PromptType.query), embedder.encode_query(corpus[:5])
    )
    np.testing.assert_array_equal(encoder.encode(texts), embedder.encode_document(corpus[:5]))
    passages = [{"text": ["甲 乙", "丙"], "title": ["甲", None], "body": ["乙", "丙"]}]
    expected = [Document(id="", title="甲", text="乙"), Document(id="", text="丙")]
    np.testing.assert_array_equal(
        encoder.encode(passages, prompt_type=PromptType.document), embedder.encode_document(expected)
    )
    assert encoder.encode(texts, precision="int8").dtype == np.int8
    queries = encoder.encode(texts, prompt_type=PromptType.query)
    np.testing.assert_allclose(encoder.similarity(queries, queries), queries @ queries.T, atol=1e-6)
    np.testing.assert_allclose(encoder.similarity_pairwise(queries, queries), np.ones(5), atol=1e-6)


def test_results_of_other_weights_files_or_dimensions_have_other_revisions(bundle):
    models = [Embedder(bundle, variant=v, truncate_dim=d) for v in ("fp32", "int8_any") for d in (16, 32)]
    metas = [RelsdkEncoder(model).mteb_model_meta for model in models]
    assert len({meta.revision for meta in metas}) == 4
    assert [meta.embed_dim for meta in metas] == [16, 32, 16, 32]
    assert metas[2].memory_usage_mb < metas[0].memory_usage_mb


def test_wrong_arguments_are_named(bundle):
    with pytest.raises(InputError, match="prompt 'title'; it has"):
        RelsdkEncoder(bundle, prompt_name="title")
    encoder = RelsdkEncoder(bundle)
    with pytest.raises(InputError, match="has device; allowed are batch_size"):
        encoder.encode([{"text": ["甲"]}], device="cuda")
    with pytest.raises(InputError, match="'ubinary'; compared by cosine"):
        encoder.encode([{"text": ["甲"]}], precision="ubinary")
    with pytest.raises(InputError, match="no 'text'; relsdk encodes texts alone"):
        encoder.encode([{"image": []}])
    with pytest.raises(InputError, match="prompt_type='passage'"):
        encoder.encode([{"text": ["甲"]}], prompt_type="passage")
