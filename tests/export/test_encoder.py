import inspect
import json
import logging
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic
from tokenizers import Tokenizer

from relsdk import Embedder
from relsdk.bundle import finish_bundle, read_bundle, read_encoder_settings
from relsdk.errors import BundleError, InputError, QualityError
from relsdk.formats import read_pairs
from relsdk.runtime.tokenizer import open_tokenizer
from relsdk.runtime.variants import best_int8
from relsdk_export.cuts.vocabulary import cut_vocabulary
from relsdk_export.encoder import EncoderCuts, export_encoder
from relsdk_export.gate.corpus import PARITY_TEXTS, Sample, _choose_texts, input_batches, typical_texts
from relsdk_export.gate.parity import ParityBudget, torch_vectors
from relsdk_export.int8.quantize import quantize_int8
from relsdk_export.onnx.convert import load_encoder
from relsdk_export.onnx.write import trace, write_onnx
from tests.bundle_changes import drop_output, make_foreign
from tests.toys import FIXTURES, exact_variants


def test_the_bundle_gives_torchs_vectors(toy_checkpoint, toy_bundle, corpus):
    embedder = Embedder(toy_bundle, variant="fp32", threads=1)
    model = load_encoder(toy_checkpoint, embedder.bundle.settings)
    texts = [*corpus, *PARITY_TEXTS]
    expected = torch_vectors(model, texts)
    got = embedder.encode(texts, truncation="silent")
    assert (got * expected).sum(axis=1).min() >= 0.9999
    for variant in exact_variants(embedder.bundle)[1:]:
        small = Embedder(toy_bundle, variant=variant, threads=1).encode(texts, truncation="silent")
        assert (small * expected).sum(axis=1).mean() >= 0.99


def test_the_committed_toy_is_what_is_exported_now(toy_bundle, corpus):
    """The SDK's tests take it for a bundle of today."""
    today, committed = Embedder(toy_bundle, threads=1), Embedder(FIXTURES / "encoder-bundle-v1", threads=1)
    for ours, theirs in zip(today.bundle.variants, committed.bundle.variants, strict=True):
        assert (ours.name, ours.file) == (theirs.name, theirs.file)
    assert today.bundle.settings == committed.bundle.settings
    for variant in exact_variants(today.bundle):
        ours, theirs = (
            Embedder(one.path, variant=variant, threads=1).encode(corpus) for one in (today, committed)
        )
        # Scales of int8 are measured, on other texts than then: numbers may round otherwise.
        np.testing.assert_allclose(ours, theirs, atol=1e-4 if variant == "fp32" else 1e-2)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_pooling_outside_the_graph_equals_pooling_inside(toy_checkpoint, tmp_path, corpus, pooling):
    """Other exporters leave pooling to the reader; ours puts it into the graph."""
    checkpoint = Path(shutil.copytree(toy_checkpoint, tmp_path / "checkpoint"))
    flags = {
        "mean": "pooling_mode_mean_tokens",
        "cls": "pooling_mode_cls_token",
        "lasttoken": "pooling_mode_lasttoken",
    }
    config = {"word_embedding_dimension": 32, **{flag: mode == pooling for mode, flag in flags.items()}}
    (checkpoint / "1_Pooling/config.json").write_text(json.dumps(config))
    bundle = export_encoder(checkpoint, tmp_path / "bundle", variants=["fp32"])
    expected = Embedder(bundle.path, threads=1).encode(corpus)

    foreign = Path(shutil.copytree(bundle.path, tmp_path / "foreign"))
    make_foreign(foreign)
    drop_output(foreign / "onnx/model.onnx", "sentence_embedding")
    np.testing.assert_allclose(Embedder(foreign, threads=1).encode(corpus), expected, atol=1e-6)


def test_quality_and_provenance_are_recorded(toy_bundle):
    content = json.loads((toy_bundle / "relsdk.json").read_text())
    assert content["provenance"]["checkpoint"] == "toy"
    assert set(content["provenance"]["versions"]) >= {"torch", "onnx", "onnxruntime", "transformers"}
    for variant in content["variants"]:
        assert variant["quality"]["parity"]["min_cosine"] > 0.98
        assert variant["quality"]["bytes"] == (toy_bundle / variant["file"]).stat().st_size
    assert str(toy_bundle.parent) not in json.dumps(content)


def test_the_fingerprint_is_of_the_vectors(toy_checkpoint, toy_bundle, checkpoint_factory, tmp_path):
    same = export_encoder(toy_checkpoint, tmp_path / "fp32", variants=["fp32"])
    assert same.fingerprint == Embedder(toy_bundle).fingerprint
    other_prompt = export_encoder(toy_checkpoint, tmp_path / "p", variants=["fp32"], prompts={"query": "q: "})
    assert other_prompt.fingerprint != same.fingerprint
    changed = shutil.copytree(toy_checkpoint, tmp_path / "changed")
    from safetensors.torch import load_file, save_file

    weights = load_file(changed / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][0] += 0.01
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    assert export_encoder(changed, tmp_path / "c", variants=["fp32"]).fingerprint != same.fingerprint


@pytest.mark.parametrize("damage", ["pooling", "swapped layers", "scale"])
def test_a_broken_graph_does_not_pass(toy_checkpoint, tmp_path, monkeypatch, damage):
    """The graph is made from a model that differs from the one the check compares with."""

    def write(model, path):
        broken = deepcopy(model)
        layers = broken.transformer.encoder.layer
        if damage == "pooling":
            broken.pooling = "cls"
        elif damage == "swapped layers":
            layers[0], layers[1] = layers[1], layers[0]
        else:
            layers[1].output.dense.weight.data *= 1.2
        write_onnx(broken, path)

    monkeypatch.setattr("relsdk_export.encoder.write_onnx", write)
    with pytest.raises(QualityError, match="does not reproduce the checkpoint"):
        export_encoder(toy_checkpoint, tmp_path / "out", variants=["fp32"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prompts", [{}, {"query": "", "document": ""}, {"query": "query: "}])
def test_a_dropped_prompt_does_not_pass(toy_checkpoint, tmp_path, monkeypatch, prompts):
    def finish(folder, *, settings, **others):
        return finish_bundle(folder, settings=replace(settings, prompts=prompts), **others)

    monkeypatch.setattr("relsdk_export.pipeline.finish_bundle", finish)
    with pytest.raises(QualityError, match="does not reproduce the checkpoint"):
        export_encoder(toy_checkpoint, tmp_path / "out", variants=["fp32"])
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_int8_scale_does_not_pass(toy_checkpoint, tmp_path, monkeypatch):
    """One product of one layer comes out twice as large."""

    def quantize(source, targets, activations):
        count = quantize_int8(source, targets, activations)
        model = onnx.load(targets["avx2"])
        scale = next(item for item in model.graph.initializer if item.name.endswith("_columns"))
        scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), scale.name))
        onnx.save(model, targets["avx2"])
        return count

    monkeypatch.setattr("relsdk_export.pipeline.quantize_int8", quantize)
    with pytest.raises(QualityError, match="int8_avx2 does not reproduce the checkpoint"):
        export_encoder(toy_checkpoint, tmp_path / "out", variants=["int8_avx2"])
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_looks_at_batch_mates_does_not_pass(toy_checkpoint, tmp_path, monkeypatch):
    """onnxruntime's dynamic quantisation: one scale for a whole batch."""

    def quantize(source, targets, activations):
        quantize_dynamic(source, targets["avx2"])

    monkeypatch.setattr("relsdk_export.pipeline.quantize_int8", quantize)
    logging.disable(logging.WARNING)  # quantize_dynamic asks for preprocessing on the root logger
    try:
        with pytest.raises(QualityError, match="alone and in a batch"):
            export_encoder(
                toy_checkpoint,
                tmp_path / "out",
                variants=["int8_avx2"],
                budget=ParityBudget(int8_min=0.0, int8_mean=0.0),
            )
    finally:
        logging.disable(logging.NOTSET)


def test_a_variant_over_budget_is_refused(toy_checkpoint, tmp_path):
    with pytest.raises(QualityError, match=r"int8_avx2 .*budget 0\.99999999"):
        export_encoder(
            toy_checkpoint, tmp_path / "out", variants=["int8_avx2"], budget=ParityBudget(int8_min=0.99999999)
        )
    assert list(tmp_path.iterdir()) == []


def test_an_int8_only_bundle_has_no_fp32_file(toy_checkpoint, tmp_path):
    bundle = export_encoder(toy_checkpoint, tmp_path / "out", variants=["int8_avx2"])
    assert [p.name for p in (bundle.path / "onnx").iterdir()] == ["model_qint8_avx2.onnx"]
    assert Embedder(bundle.path).variant.name == "int8_avx2"


def test_bad_targets_and_checkpoints(toy_checkpoint, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("keep me")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="a folder with other things in it"):
            export_encoder(toy_checkpoint, tmp_path / "full", overwrite=overwrite)
    assert (tmp_path / "full" / "precious.txt").read_text() == "keep me"
    copy = Path(shutil.copytree(toy_checkpoint, tmp_path / "copy"))
    (copy / "relsdk.json").write_text("{}")
    with pytest.raises(InputError, match="which is read"):
        export_encoder(copy, copy, overwrite=True)
    assert (copy / "model.safetensors").is_file()
    with pytest.raises(InputError, match="unknown variants"):
        export_encoder(toy_checkpoint, tmp_path / "out", variants=["int3"])
    with pytest.raises(InputError, match="does not exist"):
        export_encoder(tmp_path / "nowhere", tmp_path / "out")
    pickled = Path(shutil.copytree(toy_checkpoint, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(BundleError, match="safetensors"):
        export_encoder(pickled, tmp_path / "out")
    broken = Path(shutil.copytree(toy_checkpoint, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    with pytest.raises(BundleError, match="cannot be loaded"):
        export_encoder(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_low_rank_updates_that_were_not_merged_are_refused(toy_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    beside = Path(shutil.copytree(toy_checkpoint, tmp_path / "beside"))
    (beside / "adapter_config.json").write_text("{}")
    with pytest.raises(BundleError, match="is an adapter; merge it"):
        export_encoder(beside, tmp_path / "out")
    inside = Path(shutil.copytree(toy_checkpoint, tmp_path / "inside"))
    weights = load_file(inside / "model.safetensors")
    name = "encoder.layer.0.attention.self.query"
    weights[f"{name}.lora_A.default.weight"] = weights[f"{name}.weight"][:2].clone()
    save_file(weights, inside / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BundleError, match=r"low-rank updates beside its weights \(encoder.*merge them first"):
        export_encoder(inside, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_of_two_models_are_refused_in_one_line(toy_checkpoint, tmp_path):
    def changed(name, file, **keys):
        folder = Path(shutil.copytree(toy_checkpoint, tmp_path / name))
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **keys}))
        return folder

    for folder, message in (
        (changed("rows", "config.json", vocab_size=7), "has another shape than config.json says"),
        (changed("types", "config.json", hidden_size="abc"), "hidden_size = 'abc'"),
        (changed("head", "config.json", architectures=["BertForSequenceClassification"]), "export scorer"),
        (changed("tokens", "tokenizer.json", model={"type": "Unigram", "vocab": 5}), "no usable tokenizer"),
    ):
        with pytest.raises((BundleError, InputError), match=message) as caught:
            export_encoder(folder, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_token_that_the_embedding_has_no_row_for_is_named(toy_checkpoint, tmp_path):
    folder = Path(shutil.copytree(toy_checkpoint, tmp_path / "checkpoint"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<domain>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(BundleError, match=r"'<domain>' has id \d+, and the embedding has \d+ rows"):
        export_encoder(folder, tmp_path / "out")
    with pytest.raises(BundleError, match=r"'<domain>', .*cannot be cut"):
        cut_vocabulary(folder / "tokenizer.json", ["红烧肉"])


def test_defaults_that_nobody_asked_for_are_said(toy_checkpoint, tmp_path):
    folder = Path(shutil.copytree(toy_checkpoint, tmp_path / "plain"))
    for name in ("modules.json", "1_Pooling/config.json"):
        (folder / name).unlink()
    steps = []
    export_encoder(folder, tmp_path / "out", variants=["fp32"], on_step=steps.append)
    assert any("does not say how to pool" in step for step in steps)
    steps.clear()
    export_encoder(toy_checkpoint, tmp_path / "other", variants=["fp32"], on_step=steps.append)
    assert not any("does not say" in step for step in steps)


def test_a_limit_of_a_few_tokens(toy_checkpoint, tmp_path, corpus):
    folder = Path(shutil.copytree(toy_checkpoint, tmp_path / "short"))
    content = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps({**content, "max_seq_length": 6}))
    embedder = Embedder(export_encoder(folder, tmp_path / "out", variants=["fp32"]).path)
    assert embedder.encode(corpus, truncation="silent").shape == (len(corpus), 32)


def test_overwrite_replaces_and_leaves_nothing_behind(toy_checkpoint, tmp_path):
    export_encoder(toy_checkpoint, tmp_path / "out", variants=["fp32", "int8_avx2"])
    export_encoder(toy_checkpoint, tmp_path / "out", variants=["fp32"], overwrite=True)
    assert [variant.name for variant in Embedder(tmp_path / "out").bundle.variants] == ["fp32"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_cut_vocabulary_keeps_covered_texts_exact(toy_checkpoint, toy_bundle, corpus, tmp_path):
    covered = corpus[:4]
    bundle = export_encoder(toy_checkpoint, tmp_path / "cut", cuts=EncoderCuts(vocabulary_from=covered))
    share = bundle.provenance["cuts"]["vocabulary"]
    assert share["pieces"] < share["pieces_before"]
    assert share["unknown_share"] == 0.0
    small, full = (Embedder(path, variant="fp32", threads=1) for path in (bundle.path, toy_bundle))
    for encode in ("encode_query", "encode_document"):
        np.testing.assert_allclose(getattr(small, encode)(covered), getattr(full, encode)(covered), atol=1e-5)
    assert np.isfinite(small.encode(["完全没有见过的字符 Ω≈ç", "", "🚄"])).all()
    config = json.loads((bundle.path / "config.json").read_text())
    assert config["vocab_size"] == share["pieces"]
    assert bundle.fingerprint != full.fingerprint


def test_a_corpus_of_two_texts_does_not_clip_all_others(toy_checkpoint, corpus, tmp_path):
    notes = []
    bundle = export_encoder(
        toy_checkpoint,
        tmp_path / "cut",
        variants=["fp32", "int8_any"],
        cuts=EncoderCuts(vocabulary_from=["红烧肉怎么做", "大理"]),
        on_step=notes.append,
    )
    assert [note for note in notes if "cut to, and compared on, 2 texts" in note]
    fp32, int8 = (
        Embedder(bundle.path, variant=name).encode_document(corpus) for name in ("fp32", "int8_any")
    )
    assert (fp32 * int8).sum(axis=1).min() > 0.995  # 0.977 with scales of the two


def test_cut_vocabulary_renumbers_by_hand(toy_checkpoint, tmp_path):
    cut = cut_vocabulary(toy_checkpoint / "tokenizer.json", ["大宅门演员表"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(cut.tokenizer))
    before = Tokenizer.from_file(str(toy_checkpoint / "tokenizer.json"))
    after = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert after.get_vocab_size() == len(cut.kept)
    encoded, again = before.encode("大宅门演员表"), after.encode("大宅门演员表")
    assert again.tokens == encoded.tokens
    assert [int(cut.kept[i]) for i in again.ids] == encoded.ids
    for token in ("<s>", "</s>", "<pad>", "<unk>", "<mask>"):
        assert int(cut.kept[after.token_to_id(token)]) == before.token_to_id(token)


def test_only_unigram_vocabularies_are_cut(toy_checkpoint, tmp_path):
    content = json.loads((toy_checkpoint / "tokenizer.json").read_text())
    content["model"]["type"] = "WordPiece"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="only Unigram"):
        cut_vocabulary(tmp_path / "tokenizer.json", ["a"])


@pytest.mark.slow
def test_the_libraries_notes_stay_out_of_an_applications_log(toy_checkpoint, tmp_path, monkeypatch, caplog):
    """Whoever makes the graph; the tests' memory of exports would not ask torch again."""
    monkeypatch.setattr(torch.onnx, "export", inspect.unwrap(torch.onnx.export))
    caplog.set_level(logging.INFO)
    export_encoder(toy_checkpoint, tmp_path / "bundle", variants=["fp32"])
    trace(load_encoder(toy_checkpoint, read_encoder_settings(toy_checkpoint)))
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.slow
@pytest.mark.shared
def test_the_real_encoder_on_mixed_texts(shared, tmp_path):
    """500 texts from empty to 512 tokens: fp32 cosine >= 0.9999 for each, int8 mean >= 0.99."""
    checkpoint = shared / "models/me5-small-zh"
    bundle = export_encoder(checkpoint, tmp_path / "bundle", variants=["fp32", best_int8()])
    titles = [pair.document.title for pair in read_pairs(shared / "data/kuake_qtr/dev.jsonl")]
    rng = np.random.default_rng(0)
    texts = list(PARITY_TEXTS) + titles[:448]
    while len(texts) < 500:
        texts.append("，".join(titles[i] for i in rng.integers(0, len(titles), int(rng.integers(2, 40)))))
    model = load_encoder(checkpoint, bundle.settings)
    expected = torch_vectors(model, texts)
    for variant in exact_variants(bundle):
        worst, mean = (0.9999, 0.9999) if variant == "fp32" else (0.97, 0.99)
        embedder = Embedder(bundle.path, variant=variant)
        got = embedder.encode(texts, truncation="silent")
        assert embedder.truncated_count > 0  # some are as long as the model reads
        cosines = (got * expected).sum(axis=1)
        assert cosines.min() >= worst, variant
        assert cosines.mean() >= mean, variant


def test_a_graph_holds_nothing_of_the_machine_that_exported_it(toy_bundle):
    for path in (toy_bundle / "onnx").glob("*.onnx"):
        content = path.read_bytes()
        assert b"stack_trace" not in content
        assert b"site-packages" not in content
        assert b"pkg.torch" not in content


def test_a_sample_passes_all_and_keeps_as_many_as_asked():
    texts = [str(number) for number in range(1000)]
    sample = Sample(texts, 7)
    assert list(sample) == texts
    assert len(set(sample.kept)) == 7
    assert set(sample.kept) - set(texts[:100])  # an even sample, not the beginning


def test_activations_are_measured_on_some_thousand_tokens_however_many_there_are(toy_bundle):
    bundle = read_bundle(toy_bundle)
    tokenizer = open_tokenizer(bundle.path, bundle.settings)
    for texts in (typical_texts(), typical_texts() * 2):
        assert sum(tokenizer.tokenize(texts).lengths) > 50_000
        measured = sum(int(batch["attention_mask"].sum()) for batch in input_batches(tokenizer, texts))
        assert 8150 < measured <= 8192


def test_texts_with_new_pieces_are_chosen_first():
    ids = [[1, 2, 3], [1, 2, 3], [4, 4], [1, 2, 3, 4, 5, 6, 7], [], [8]]
    # 3 of 3 are new, then 1 of 1, then 1 of 2; the long one no longer fits, and nothing is new in the others.
    assert _choose_texts(ids, 9).tolist() == [0, 5, 2, 1]
    assert _choose_texts(ids, 7).tolist() == [0, 5, 2, 4]
    assert _choose_texts([[1] * 10, [2] * 12], 5).tolist() == [0]
    assert sorted(_choose_texts(ids, 100)) == list(range(6))
