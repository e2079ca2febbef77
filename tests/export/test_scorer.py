"""Cross-encoders: every architecture and head exports, equals torch, and is served with levels."""

import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from relsdk import Document, Embedder, Index, RelevanceScorer, Searcher
from relsdk.bundle import read_bundle
from relsdk.errors import BundleError, CalibrationError, InputError, QualityError
from relsdk.formats import write_pairs
from relsdk.models.cross_encoder import CrossEncoder
from relsdk.models.open import open_pair_model
from relsdk.tools.evaluation import calibrate_bundle, evaluate
from relsdk_export.gate.parity import ParityBudget, torch_logits
from relsdk_export.gate.quality import QualityBudget
from relsdk_export.onnx.convert import TESTED_ARCHITECTURES, load_scorer
from relsdk_export.onnx.write import write_onnx
from relsdk_export.pipeline import DEFAULT_VARIANTS, Gate
from relsdk_export.scorer import ScorerCuts, export_scorer
from relsdk_sample import generate
from tests.bundle_changes import make_foreign
from tests.export.toy_architectures import make_cross_encoder
from tests.toys import exact_variants

HEADS = {"categorical": 4, "ordinal": 3, "regression": 1}
# Random weights of width 32 lose more in int8 than a trained model does.
LOOSE = ParityBudget(int8_probabilities=0.15)


@pytest.fixture(scope="module")
def scorers(tmp_path_factory, corpus):
    """By architecture, head and types: checkpoint and bundle, each made once.

    The one with all variants is the default; the others have what needs no CPU of a kind.
    """

    @cache
    def make(name="bert", head="categorical", types=False):
        folder = tmp_path_factory.mktemp(name)
        checkpoint = make_cross_encoder(name, folder / "checkpoint", corpus, head, types)
        all_variants = (name, head, types) == ("bert", "categorical", False)
        variants = DEFAULT_VARIANTS if all_variants else ("fp32", "int8_any")
        bundle = export_scorer(checkpoint, folder / "bundle", variants=variants, budget=LOOSE)
        return SimpleNamespace(checkpoint=checkpoint, bundle=bundle)

    return make


@pytest.fixture(scope="module")
def pairs(corpus):
    world = generate(seed=3, n_documents=100, n_queries=10)
    plain = [(pair.query, pair.document) for pair in world.pairs[:40]]
    return [*plain, (corpus[0], corpus[1]), ("", ""), (corpus[3], "")]


def texts_of(pairs):
    return [(q, d if isinstance(d, str) else f"{d.title} {d.text}".strip()) for q, d in pairs]


# RoBERTa differs from XLM-R in its tokenizer alone; encoders of all are exported in test_architectures.py.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.slow if name in ("roberta", "distilbert", "qwen3", "modernbert") else ()
        )
        for name in TESTED_ARCHITECTURES
    ],
)
def test_every_architecture_gives_torchs_logits(scorers, pairs, corpus, name):
    pairs = [*pairs, (corpus[1] * 60, corpus[2] * 60)]  # too long: the longer text is cut first
    made = scorers(name)
    model = load_scorer(made.checkpoint, made.bundle.settings)
    expected = torch_logits(model, made.checkpoint, texts_of(pairs))
    scorer = CrossEncoder(made.bundle, variant="fp32", threads=1)
    got = scorer.logits(pairs, truncation="silent")
    np.testing.assert_allclose(got, expected, atol=1e-3, rtol=1e-4)
    assert expected.std() > 0.1  # the comparison means something
    assert scorer.truncated_count > 0
    for variant in exact_variants(made.bundle)[1:]:
        small = CrossEncoder(made.bundle, variant=variant, threads=1).logits(pairs, truncation="silent")
        assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(("head", "outputs"), HEADS.items())
def test_heads(scorers, pairs, head, outputs):
    bundle = scorers("bert", head).bundle
    assert (bundle.kind, bundle.settings.head, bundle.settings.outputs) == ("scorer", head, outputs)
    scorer = CrossEncoder(bundle, variant="fp32", threads=1)
    found = scorer.outputs(pairs)
    logits = scorer.logits(pairs).astype(np.float64)
    if head == "regression":
        np.testing.assert_array_equal(found.scores, logits[:, 0].astype(np.float32))
        with pytest.raises(CalibrationError, match="one number"):
            RelevanceScorer(bundle.path)
        return
    if head == "categorical":
        expected = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    else:
        at_least = np.minimum.accumulate(1 / (1 + np.exp(-logits)), axis=1)
        expected = -np.diff(np.hstack([np.ones((len(logits), 1)), at_least, np.zeros((len(logits), 1))]))
    predictions = RelevanceScorer(scorer).predict(pairs)
    np.testing.assert_allclose(predictions.probabilities, expected, atol=5e-4)
    np.testing.assert_allclose(predictions.scores, expected @ np.arange(4), atol=2e-3)
    assert predictions.levels.tolist() == predictions.probabilities.argmax(axis=1).tolist()


def test_segments_are_told_apart(scorers, pairs):
    made = scorers("bert", "categorical", True)
    session = CrossEncoder(made.bundle, variant="fp32", threads=1)
    assert "token_type_ids" in session._runner.session.input_names
    model = load_scorer(made.checkpoint, made.bundle.settings)
    np.testing.assert_allclose(
        session.logits(pairs, truncation="silent"),
        torch_logits(model, made.checkpoint, texts_of(pairs)),
        atol=1e-3,
        rtol=1e-4,
    )


def test_a_pair_does_not_depend_on_its_batch_mates(scorers, pairs):
    bundle = scorers().bundle
    for variant, tolerance in (("fp32", 1e-5), ("int8_avx2", 1e-4)):
        scorer = CrossEncoder(bundle, variant=variant, threads=1)
        together = scorer.logits(pairs, truncation="silent")
        shuffled = np.random.default_rng(0).permutation(len(pairs))
        again = scorer.logits([pairs[row] for row in shuffled], batch_size=7, truncation="silent")
        np.testing.assert_allclose(again, together[shuffled], atol=tolerance)
        alone = np.concatenate([scorer.logits([pair], truncation="silent") for pair in pairs[:20]])
        np.testing.assert_allclose(alone, together[:20], atol=tolerance)


@pytest.mark.peers
def test_it_equals_sentence_transformers(scorers, pairs):
    library = pytest.importorskip("sentence_transformers")
    made = scorers()
    theirs = library.CrossEncoder(str(made.checkpoint), device="cpu", max_length=256)
    expected = theirs.predict(
        texts_of(pairs), activation_fn=torch.nn.Identity(), convert_to_numpy=True, batch_size=8
    )
    got = CrossEncoder(made.bundle, variant="fp32").logits(pairs, truncation="silent")
    np.testing.assert_allclose(got, expected, atol=1e-3, rtol=1e-4)


@pytest.fixture(scope="module")
def world():
    return generate(seed=4, n_documents=100, n_queries=20, pairs_per_query=8)


def test_calibration_evaluation_and_levels(scorers, world, tmp_path):
    import shutil

    for head in HEADS:
        folder = shutil.copytree(scorers("bert", head).bundle.path, tmp_path / head)
        before = evaluate(open_pair_model(folder, variant="fp32"), world.pairs)
        assert (before.grading is None) == (head == "regression")
        assert before.dimension is None
        (report,) = calibrate_bundle(folder, world.pairs, variants=["fp32"])
        calibration = read_bundle(folder).variant("fp32").calibrations["pair"]
        assert report.method.startswith(calibration["method"])
        of_logits = ("temperature", "bias_corrected_temperature", "spline_link")
        assert calibration["method"] in (of_logits if head != "regression" else ("spline_link",))
        after = evaluate(open_pair_model(folder, variant="fp32"), world.pairs)
        assert after.ranking == before.ranking  # calibration changes no order
        if before.grading is not None:
            assert after.grading.log_loss <= before.grading.log_loss
        RelevanceScorer(folder, variant="fp32").predict([("红烧肉", "红烧肉的做法")])


def test_the_searcher_and_the_command_line_use_it(scorers, toy_bundle_copy, world, tmp_path, relsdk):
    bundle = scorers().bundle
    embedder = Embedder(toy_bundle_copy, variant="fp32")
    index = Index.build(tmp_path / "index", world.documents[:100], embedder)
    scorer = RelevanceScorer(bundle.path, variant="fp32")
    hits = Searcher(embedder, index, scorer).search("红烧肉", k=5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    direct = scorer.predict([("红烧肉", hit.document) for hit in hits])
    np.testing.assert_allclose([hit.score for hit in hits], direct.scores, atol=1e-5)
    ranked = scorer.rank("红烧肉", [Document("1", "红烧肉"), Document("2", "手机")], top_k=1)
    assert len(ranked) == 1

    code, out, _ = relsdk("query", tmp_path / "index", "红烧肉", "--scorer", bundle.path, "--json")
    assert code == 0
    assert json.loads(out)["hits"][0]["level"] in (0, 1, 2, 3)
    code, out, _ = relsdk("score", bundle.path, "红烧肉", "红烧肉怎么做", "--json")
    assert code == 0
    assert sum(json.loads(out)["probabilities"]) == pytest.approx(1.0, abs=1e-3)
    write_pairs(tmp_path / "pairs.jsonl", world.pairs)
    assert relsdk("eval", bundle.path, tmp_path / "pairs.jsonl", "--variant", "fp32")[0] == 0
    code, out, _ = relsdk("model", "verify", bundle.path)
    assert code == 0
    assert "ok" in out
    code, out, _ = relsdk("model", "info", bundle.path)
    assert "categorical" in out
    assert "logits within" in out


def test_wrong_kinds_are_named(scorers, toy_bundle, tmp_path, corpus):
    bundle = scorers().bundle
    with pytest.raises(InputError, match="use RelevanceScorer"):
        Embedder(bundle.path)
    with pytest.raises(InputError, match="use Embedder"):
        CrossEncoder(read_bundle(toy_bundle))
    with pytest.raises(InputError, match="no vectors to cut"):
        open_pair_model(bundle.path, truncate_dim=8)
    checkpoint = make_cross_encoder("bert", tmp_path / "c", corpus, "ordinal")
    content = json.loads((checkpoint / "config.json").read_text())
    del content["relsdk_head"]
    (checkpoint / "config.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="3 outputs"):
        export_scorer(checkpoint, tmp_path / "out")


def test_an_encoder_has_no_head_to_export(toy_checkpoint, tmp_path):
    """transformers would give it a random one."""
    config = json.loads((toy_checkpoint / "config.json").read_text())
    import shutil

    copy = shutil.copytree(toy_checkpoint, tmp_path / "c")
    (copy / "config.json").write_text(json.dumps({**config, "id2label": {str(i): str(i) for i in range(4)}}))
    with pytest.raises(BundleError, match=r"lacks .* weights"):
        export_scorer(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["order", "layer"])
def test_a_broken_export_does_not_pass(scorers, tmp_path, monkeypatch, damage):
    def write(model, path):
        from copy import deepcopy

        broken = deepcopy(model)
        if damage == "order":  # levels upside down
            head = broken.transformer.classifier
            head.weight.data, head.bias.data = head.weight.data.flip(0), head.bias.data.flip(0)
        else:
            layers = broken.transformer.bert.encoder.layer
            layers[0], layers[1] = layers[1], layers[0]
        write_onnx(broken, path)

    monkeypatch.setattr("relsdk_export.scorer.write_onnx", write)
    with pytest.raises(QualityError, match="does not reproduce the checkpoint"):
        export_scorer(scorers().checkpoint, tmp_path / "out", variants=["fp32"])
    assert list(tmp_path.iterdir()) == []


def test_the_gate_and_cuts(scorers, world, corpus, tmp_path):
    bundle = export_scorer(
        scorers().checkpoint,
        tmp_path / "out",
        variants=["fp32", "int8_any"],
        cuts=ScorerCuts(vocabulary_from=corpus[:6], layers=[1]),
        budget=LOOSE,
        gate=Gate(world.pairs, QualityBudget(1.0, 1.0, 1.0)),
    )
    cuts = bundle.provenance["cuts"]
    assert cuts["layers"] == [1]
    assert cuts["vocabulary"]["pieces"] < cuts["vocabulary"]["pieces_before"]
    assert cuts["after"]["bytes"] < cuts["before"]["bytes"]
    assert {*cuts["before"]} == {"bytes", "ap_1", "ap_2", "ap_3", "mean_ap", "ndcg_at_10"}
    assert json.loads((bundle.path / "config.json").read_text())["num_hidden_layers"] == 1
    card = (bundle.path / "README.md").read_text()
    assert "labelled pairs" in card
    assert "layers kept: 1" in card
    model = transformers.AutoConfig.from_pretrained(bundle.path)
    assert model.num_hidden_layers == 1


def test_a_cut_that_keeps_a_corpus_keeps_its_beginnings(scorers, tmp_path):
    """Pairs are compared whose query is the beginning of a title, cut inside a word."""
    titles = [f"Understanding transformer registration number {n} in everyday words" for n in range(20)]
    bundle = export_scorer(
        scorers().checkpoint,
        tmp_path / "out",
        variants=["fp32"],
        cuts=ScorerCuts(vocabulary_from=titles),
        budget=LOOSE,
    )
    assert bundle.provenance["cuts"]["vocabulary"]["pieces"] > 0


def test_a_foreign_cross_encoder_opens(scorers, tmp_path):
    """As Optimum writes it: no relsdk.json."""
    import shutil

    made = scorers("bert", "regression")
    folder = shutil.copytree(made.bundle.path, tmp_path / "foreign")
    make_foreign(folder)
    bundle = read_bundle(folder)
    assert bundle.kind == "scorer"
    np.testing.assert_array_equal(
        CrossEncoder(bundle, variant="fp32").logits([("a", "b")]),
        CrossEncoder(made.bundle, variant="fp32").logits([("a", "b")]),
    )
