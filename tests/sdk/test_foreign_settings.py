"""Every setting of somebody's folder that changes a vector is honoured, or refused by its name."""

import json

import numpy as np
import pytest

from relsdk import Embedder
from relsdk.bundle import (
    EncoderSettings,
    read_bundle,
    read_encoder_settings,
    read_scorer_settings,
    settings_content,
)
from relsdk.errors import BundleError, TruncationWarning
from tests.bundle_changes import change_json
from tests.sdk.foreign_folder import FIXTURE, make_folder, rows, unit

pytest.importorskip("onnx")
LONG = "红烧肉怎么做才不腻手机黑屏打不开怎么办"
PROMPTS, LENGTHS, TOKENIZER = (
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "m")


def mean(text, *limit, side="right"):
    return rows(text, *limit, side=side).mean(axis=0)


def change_tokenizer(folder, **keys):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("place", ["tokenizer_config", "tokenizer", "override"])
def test_the_end_that_is_cut_is_the_one_that_the_folder_says(folder, side, place):
    change_json(folder / LENGTHS, max_seq_length=6)
    if place == "tokenizer_config":
        change_json(folder / TOKENIZER, truncation_side=side)
    elif place == "override":  # arguments of the tokenizer go before its own file
        change_json(folder / LENGTHS, tokenizer_args={"truncation_side": side})
        change_json(folder / TOKENIZER, truncation_side="left" if side == "right" else "right")
    else:
        truncation = {"direction": side.title(), "max_length": 99, "strategy": "LongestFirst", "stride": 0}
        change_tokenizer(folder, truncation=truncation)
    embedder = Embedder(folder)
    with pytest.warns(TruncationWarning):
        got = embedder.encode([LONG, "红烧肉"])
    np.testing.assert_allclose(got, [mean(LONG, 6, side=side), mean("红烧肉")], atol=1e-5)
    assert np.abs(mean(LONG, 6, side="left") - mean(LONG, 6)).max() > 0.1


def test_the_default_prompt_is_put_before_what_names_none(folder, corpus):
    change_json(
        folder / PROMPTS, prompts={"query": "问 ", "passage": "答 ", "x": "又 "}, default_prompt_name="x"
    )
    embedder = Embedder(folder)

    def expected(prompt):
        return np.stack([mean(prompt + text) for text in corpus])

    np.testing.assert_allclose(embedder.encode(corpus), expected("又 "), atol=1e-5)
    np.testing.assert_allclose(embedder.encode(corpus, prompt_name="query"), expected("问 "), atol=1e-5)
    np.testing.assert_allclose(embedder.encode(corpus, prompt_name=""), expected(""), atol=1e-5)
    np.testing.assert_allclose(embedder.encode(corpus, prompt="也 "), expected("也 "), atol=1e-5)
    np.testing.assert_allclose(embedder.encode(corpus, prompt=""), expected(""), atol=1e-5)
    with pytest.warns(UserWarning, match="does not normalise"):
        queries = embedder.encode_query(corpus)
    np.testing.assert_allclose(queries, unit(expected("问 ")), atol=1e-5)
    np.testing.assert_allclose(embedder.encode_document(corpus), unit(expected("答 ")), atol=1e-5)


def test_queries_and_documents_without_a_prompt_get_none(folder, corpus):
    """As in sentence-transformers, where both have an empty one unless the folder says otherwise."""
    change_json(folder / PROMPTS, prompts={"x": "又 "}, default_prompt_name="x")
    embedder = Embedder(folder)
    raw = {"normalize_embeddings": False}
    expected = np.stack([mean(text) for text in corpus])
    np.testing.assert_allclose(embedder.encode_query(corpus, **raw), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.encode_document(corpus, **raw), expected, atol=1e-5)
    change_json(folder / PROMPTS, prompts={"query": None}, default_prompt_name="document")
    np.testing.assert_allclose(Embedder(folder).encode(corpus), expected, atol=1e-5)


def test_vectors_are_cut_as_the_folder_says(folder, corpus):
    change_json(folder / PROMPTS, truncate_dim=3)
    expected = np.stack([mean(text) for text in corpus])
    embedder = Embedder(folder)
    assert embedder.dimension == 3
    np.testing.assert_allclose(embedder.encode(corpus), expected[:, :3], atol=1e-5)
    np.testing.assert_allclose(Embedder(folder, truncate_dim=8).encode(corpus), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "tokenizer", "positions", "limit"),
    [
        (20, 10, 40, 20),  # sentence-transformers' own goes before the tokenizer's
        (None, 10, 40, 10),
        (60, 10, 40, 40),  # the model has no more positions
        (None, int(1e30), None, 512),
        (None, 1e30, 40, 40),
    ],
)
def test_the_limit_is_what_sentence_transformers_takes(folder, lengths, tokenizer, positions, limit):
    change_json(folder / LENGTHS, max_seq_length=lengths)
    change_json(folder / TOKENIZER, model_max_length=tokenizer)
    change_json(folder / "config.json", max_position_embeddings=positions)
    assert read_encoder_settings(folder).max_tokens == limit


def test_the_limit_has_other_file_names(folder):
    change_json(folder / "sentence_xlm-roberta_config.json", max_seq_length=33)
    assert read_encoder_settings(folder).max_tokens == 33


def test_a_plain_decoder_pools_its_last_token(folder, corpus):
    """What sentence-transformers does with a folder of transformers alone."""
    for path in ("modules.json", "1_Pooling/config.json"):
        (folder / path).unlink()
    assert read_encoder_settings(folder).pooling == "mean"
    change_json(folder / "config.json", architectures=["Qwen3ForCausalLM"])
    np.testing.assert_allclose(
        Embedder(folder).encode(corpus), [rows(text)[-1] for text in corpus], atol=1e-5
    )
    change_json(folder / "config.json", is_causal=False)
    assert read_encoder_settings(folder).pooling == "mean"


def test_lower_case_is_no_news_to_a_tokenizer_that_makes_it(folder):
    change_json(folder / LENGTHS, do_lower_case=True)
    change_tokenizer(folder, normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})
    read_encoder_settings(folder)
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    change_tokenizer(folder, normalizer={**bert, "lowercase": True})
    read_encoder_settings(folder)
    change_tokenizer(folder, normalizer={**bert, "lowercase": False})
    with pytest.raises(BundleError, match="do_lower_case: true, which is not supported"):
        read_encoder_settings(folder)


@pytest.mark.parametrize(
    ("file", "keys", "message"),
    [
        (LENGTHS, {"query_length": 32}, "query_length: 32, which is not supported"),
        (LENGTHS, {"document_length": 32}, "document_length"),
        (LENGTHS, {"query_expansion": {"length": 32}}, "query_expansion"),
        (LENGTHS, {"processing_kwargs": {"text": {"max_length": 5}}}, "processing_kwargs"),
        (LENGTHS, {"transformer_task": "fill-mask"}, "transformer_task 'fill-mask'"),
        (LENGTHS, {"modality_config": {"message": {"method": "forward"}}}, "modality_config"),
        (LENGTHS, {"modality_config": {"text": {"method": "get_text_features"}}}, "modality_config"),
        (LENGTHS, {"max_seq_length": "128"}, "max_seq_length"),
        (PROMPTS, {"model_type": "SparseEncoder"}, "says that it is a SparseEncoder"),
        (
            PROMPTS,
            {"default_prompt_name": "x", "prompts": {"y": "z"}},
            r"'x', and no such prompt; it has \['y'\]",
        ),
        (PROMPTS, {"truncate_dim": 9}, "truncate_dim 9; allowed are 1 to 8"),
        (PROMPTS, {"prompts": ["x"]}, "prompts"),
        (TOKENIZER, {"truncation_side": "up"}, "truncation_side 'up'; left or right"),
        (TOKENIZER, {"split_special_tokens": True}, "split_special_tokens"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt=false"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}, r"asks for pooling \['mean', 'cls'\]"),
        ("modules.json", [{"type": "theirs.Transformer", "path": ""}], "the class 'theirs.Transformer'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(folder, file, keys, message):
    if isinstance(keys, list):
        (folder / file).write_text(json.dumps(keys))
    else:
        change_json(folder / file, **keys)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_the_usual_settings_of_version_6_are_understood(folder):
    """As sentence-transformers 6 writes them where nothing is out of the ordinary."""
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    change_json(
        folder / LENGTHS,
        transformer_task="feature-extraction",
        modality_config={"text": text, "message": {**text, "format": "flat"}},
        module_output_name="token_embeddings",
    )
    change_json(
        folder / PROMPTS,
        model_type="SentenceTransformer",
        similarity_fn_name="cosine",
        default_prompt_name=None,
    )
    assert settings_content(read_encoder_settings(folder)).keys().isdisjoint(ADDED)


ADDED = {"default_prompt", "truncation_side", "truncate_dim", "similarity", "dense"}


@pytest.mark.parametrize(
    ("key", "kind", "part"),
    [
        ("do_lower_case", "BertNormalizer", "lowercase"),
        ("strip_accents", "BertNormalizer", "strip_accents"),
        ("tokenize_chinese_chars", "BertNormalizer", "handle_chinese_chars"),
        ("add_prefix_space", "ByteLevel", "add_prefix_space"),
    ],
)
def test_a_tokenizer_whose_two_files_differ_is_refused(folder, key, kind, part):
    """transformers builds such tokenizers again by the configuration; we read the other file."""
    where = "normalizer" if kind == "BertNormalizer" else "pre_tokenizer"
    change_tokenizer(folder, **{where: {"type": kind, part: True}})
    change_json(folder / TOKENIZER, tokenizer_class="BertTokenizer", **{key: True})
    read_encoder_settings(folder)
    change_json(folder / TOKENIZER, **{key: False})
    with pytest.raises(BundleError, match=f"{key}: False and tokenizer.json has {part}: True in its {kind}"):
        read_encoder_settings(folder)
    change_json(folder / TOKENIZER, tokenizer_class="PreTrainedTokenizerFast")
    read_encoder_settings(folder)


def test_a_scorer_is_cut_where_its_folder_says_and_has_no_prompt(folder):
    change_json(folder / "config.json", architectures=["BertForSequenceClassification"], num_labels=1)
    change_json(folder / TOKENIZER, truncation_side="left")
    assert read_scorer_settings(folder).truncation_side == "left"
    change_json(folder / PROMPTS, prompts={"x": "y"}, default_prompt_name="x")
    with pytest.raises(BundleError, match="default_prompt_name 'x'; a prompt before pairs"):
        read_scorer_settings(folder)


def test_settings_that_say_nothing_leave_the_fingerprint_alone():
    """The fixture was written before they were; what is new is in the fingerprint once it says something."""
    old = json.loads((FIXTURE / "relsdk.json").read_text())["settings"]
    settings = EncoderSettings(**{**old, "matryoshka_dims": tuple(old["matryoshka_dims"])})
    assert json.loads(json.dumps(settings_content(settings))) == old
    changed = EncoderSettings(8, 512, "mean", normalize=True, truncation_side="left", dense=("2_Dense",))
    assert settings_content(changed)["truncation_side"] == "left"
    assert "default_prompt" not in settings_content(changed)


@pytest.mark.parametrize("change", [{"truncation_side": "left"}, {"model_max_length": 5}])
def test_a_setting_that_changes_vectors_changes_the_fingerprint(folder, change):
    before = read_bundle(folder).fingerprint
    change_json(folder / TOKENIZER, **change)
    assert read_bundle(folder).fingerprint != before
