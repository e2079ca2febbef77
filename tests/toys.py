"""Toy models that are real in every way but size: checkpoints made by rule, and the committed bundles.

A committed bundle needs no torch and no export; `make_checkpoint` makes what the committed encoder was
exported from.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.bundle_changes import read_description, write_description

FIXTURES = Path(__file__).resolve().parent / "fixtures"

CORPUS = [
    "大宅门演员表",
    "红烧肉怎么做才不腻",
    "手机黑屏打不开怎么办",
    "How to make bread at home",
    "三天两夜大理旅游攻略",
    "健身新手一周训练计划",
    "金毛幼犬怎么训练定点上厕所",
    "感冒咳嗽吃什么药好得快",
    "游戏攻略第三关怎么过",
    "臺灣夜市必吃的十種小吃",
    "query: passage: abcdefghijklmnopqrstuvwxyz 0123456789",
]


def copy_bundle(name, folder, *, variants=None):
    """Copy a committed bundle: uncalibrated, described as today's versions do, of some variants or of all."""
    shutil.copytree(FIXTURES / name, folder)
    content = read_description(folder)
    for variant in content["variants"]:
        variant["calibrations"] = {}
    if variants is not None:
        dropped = [variant for variant in content["variants"] if variant["name"] not in variants]
        content["variants"] = [variant for variant in content["variants"] if variant not in dropped]
        for variant in dropped:
            del content["files"][variant["file"]]
            (folder / variant["file"]).unlink()
    write_description(folder, content)
    return folder


def write_tokenizer(
    folder,
    corpus,
    couples,
    *,
    pad_token="<pad>",
    single="<s> $A </s>",
    pair="<s> $A </s> </s> $B </s>",
):
    """Write a Unigram tokenizer that knows a corpus' characters and some couples of them; return its size.

    It is made by rule: the library's trainer gives another vocabulary in each process.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["<s>", pad_token, "</s>", "<unk>", "<mask>"]
    characters = sorted({character for text in corpus for character in text} - {" "})
    vocabulary = [(token, 0.0) for token in special] + [("\u2581", -6.0)]
    vocabulary += [(piece, -8.0 - 0.01 * i) for i, piece in enumerate(characters)] + couples
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def make_checkpoint(folder, *, seed=0, hidden=32, heads=4, pooling="mean", normalize=True, pad_token="<pad>"):
    """Write a small random BERT checkpoint in sentence-transformers layout."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from relsdk.bundle import EncoderSettings, write_layout

    couples = sorted(
        {text[i : i + 2] for text in CORPUS for i in range(len(text) - 1) if " " not in text[i : i + 2]}
    )
    scored = [(piece, -10.0 - 0.01 * i) for i, piece in enumerate(couples)]
    vocabulary_size = write_tokenizer(folder, CORPUS, scored, pad_token=pad_token)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": 256,
                "pad_token": pad_token,
                "unk_token": "<unk>",
                "cls_token": "<s>",
                "sep_token": "</s>",
            }
        )
    )
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=2 * hidden,
        max_position_embeddings=256,
        initializer_range=0.3,
        pad_token_id=1,
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    settings = EncoderSettings(
        dimension=hidden,
        max_tokens=256,
        pooling=pooling,
        normalize=normalize,
        prompts={"query": "query: ", "document": "passage: "},
        pad_token=pad_token,
    )
    write_layout(folder, settings)
    return folder


def exact_variants(bundle):
    """Names of the variants that this CPU runs without saturating: those whose values mean something here."""
    from relsdk.runtime.variants import runs_exactly

    return [variant.name for variant in bundle.variants if runs_exactly(variant)]
