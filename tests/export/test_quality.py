import json
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from relsdk import Embedder, RelevanceLevel
from relsdk.cli import main
from relsdk.errors import InputError, QualityError
from relsdk.formats import write_pairs
from relsdk.metrics import mean_ap_over_levels
from relsdk.models.bi_encoder import BiEncoder
from relsdk_export.encoder import export_encoder
from relsdk_export.gate import quality
from relsdk_export.gate.parity import ParityBudget
from relsdk_export.gate.quality import QualityBudget, measure_quality
from relsdk_export.int8.quantize import quantize_int8
from relsdk_export.pipeline import Gate
from relsdk_sample import generate

LOOSE = QualityBudget(mean_ap=1.0, ndcg_at_10=1.0, level_changes=1.0)


@pytest.fixture(scope="module")
def pairs(toy_bundle):
    """Pairs whose levels are the quartiles of the toy encoder's own cosine, so fp32 ranks them perfectly."""
    plain = generate(seed=9, n_documents=150, n_queries=60, pairs_per_query=5).pairs
    embedder = Embedder(toy_bundle, variant="fp32")
    cosines = BiEncoder(embedder).outputs([(pair.query, pair.document) for pair in plain]).scores
    levels = np.searchsorted(np.quantile(cosines, [0.25, 0.5, 0.75]), cosines)
    return [replace(pair, level=RelevanceLevel(int(k))) for pair, k in zip(plain, levels, strict=True)]


def test_fp32_loses_nothing_against_itself(toy_bundle, pairs):
    (record,) = measure_quality(toy_bundle, ["fp32"], pairs, QualityBudget(0.0, 0.0, 0.0))
    assert (record.mean_ap_loss, record.ndcg_at_10_loss, record.level_changes) == (0.0, 0.0, 0.0)
    assert record.over_budget == ()
    assert record.mean_ap == 1.0


def test_losses_are_those_of_the_scores(toy_bundle, pairs):
    (record,) = measure_quality(toy_bundle, ["int8_avx2"], pairs, LOOSE)
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    held = [pair for pair in pairs if pair.query in set(queries[1::2])]
    assert record.pairs == len(held)
    expected = {}
    for variant in ("fp32", "int8_avx2"):
        embedder = Embedder(toy_bundle, variant=variant)
        q = embedder.encode_query([pair.query for pair in held], truncation="silent")
        d = embedder.encode_document([pair.document for pair in held], truncation="silent")
        labels = [int(pair.level) for pair in held]
        expected[variant] = mean_ap_over_levels(labels, (q * d).sum(axis=1)).mean_ap
    assert record.mean_ap == pytest.approx(expected["int8_avx2"], abs=1e-3)
    assert record.mean_ap_loss == pytest.approx(expected["fp32"] - expected["int8_avx2"], abs=1e-3)
    assert 0.0 <= record.level_changes <= 1.0


def test_a_measure_that_the_pairs_do_not_support_judges_nobody(toy_bundle, pairs):
    """nDCG needs queries with three documents; mean AP and levels are judged all the same."""
    seen, two = Counter(), []
    for pair in pairs:
        seen[pair.query] += 1
        two += [pair] * (seen[pair.query] <= 2)
    (record,) = measure_quality(toy_bundle, ["int8_avx2"], two, QualityBudget(1.0, 0.0, 1.0))
    assert (record.ndcg_at_10, record.ndcg_at_10_loss, record.over_budget) == (None, None, ())
    assert set(record.intervals) == {"mean_ap", "level_changes"}
    json.dumps(record.to_dict(), allow_nan=False)


def test_what_chance_could_explain_is_said(toy_bundle, pairs):
    (record,) = measure_quality(toy_bundle, ["int8_avx2"], pairs, LOOSE)
    for name, (low, high) in record.intervals.items():
        loss = record.level_changes if name == "level_changes" else getattr(record, f"{name}_loss")
        assert low <= loss <= high
    changes = record.level_changes
    low, _ = record.intervals["level_changes"]
    assert 0 < low < changes
    for limit, is_chance in ((changes - 1e-9, True), (low - 1e-9, False)):
        losses, budget = {"level_changes": changes}, QualityBudget(level_changes=limit)
        (line,) = quality.over_budget(losses, record.intervals, budget)  # over budget either way
        assert ("more pairs would tell" in line) == is_chance


def test_too_few_queries_are_said(toy_bundle, pairs):
    with pytest.raises(InputError, match="too few"):
        measure_quality(toy_bundle, ["fp32"], pairs[:32], LOOSE)


def spoil(path):
    """Make every product and every embedding zero: all texts get nearly the same vector."""
    model = onnx.load(path)
    for item in model.graph.initializer:
        if item.name.endswith(("_columns", "_scale")):
            nothing = np.zeros_like(numpy_helper.to_array(item))
            item.CopyFrom(numpy_helper.from_array(nothing, item.name))
    onnx.save(model, path)


def test_a_variant_over_budget_is_left_out_and_the_report_says_by_how_much(
    toy_checkpoint, pairs, tmp_path, monkeypatch
):
    def broken(source, targets, activations):
        count = quantize_int8(source, targets, activations)
        spoil(targets["avx2"])
        return count

    monkeypatch.setattr("relsdk_export.pipeline.quantize_int8", broken)
    steps = []
    bundle = export_encoder(
        toy_checkpoint,
        tmp_path / "out",
        budget=ParityBudget(int8_min=-1.0, int8_mean=-1.0),  # parity would catch it first
        gate=Gate(pairs, QualityBudget(0.1, 1.0, 1.0)),
        on_step=steps.append,
    )
    assert [variant.name for variant in bundle.variants] == ["fp32", "int8_avx512_vnni", "int8_any"]
    assert not (bundle.path / "onnx" / "model_qint8_avx2.onnx").exists()
    bundle.check_hashes()
    assert any("int8_avx2 is left out: mean_ap: 0." in step for step in steps)
    gate = {variant.name: variant.quality["gate"] for variant in bundle.variants}
    assert gate["int8_avx512_vnni"]["over_budget"] == []
    assert gate["fp32"]["mean_ap_loss"] == 0.0
    assert "left_out" in bundle.provenance
    assert np.isfinite(Embedder(bundle.path).encode_query("红烧肉")).all()


def test_nothing_left_to_serve_is_an_error(toy_checkpoint, pairs, tmp_path):
    with pytest.raises(QualityError, match="every variant asked for"):
        export_encoder(
            toy_checkpoint,
            tmp_path / "out",
            variants=["int8_avx2"],
            gate=Gate(pairs, QualityBudget(-1.0, -1.0, -1.0)),
        )
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_gates(toy_checkpoint, pairs, tmp_path, capsys):
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    arguments = [
        "export",
        "encoder",
        str(toy_checkpoint),
        str(tmp_path / "b"),
        "--pairs",
        str(tmp_path / "pairs.jsonl"),
        "--variant",
        "fp32",
        "--variant",
        "int8_any",
    ]
    budgets = ["--max-ap-loss", "1", "--max-ndcg-loss", "1", "--max-level-changes", "1"]
    main([*arguments, *budgets])
    assert "levels changed" in capsys.readouterr().out
    content = json.loads((tmp_path / "b" / "relsdk.json").read_text())
    assert all("gate" in variant["quality"] for variant in content["variants"])
