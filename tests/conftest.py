"""Toy models that are real in every way but size, and the shared data where it is present."""

import json
import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest_plugins = ("tests.cpu_seconds",)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
if find_spec("torch") is None:  # a base installation, as of `make test-floor`
    collect_ignore_glob = ["bench/*", "export/*", "training/*", "sdk/test_embedder.py", "sdk/test_peers.py"]

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


@pytest.fixture(autouse=True)
def _logging_stays_on():
    """A command that leaves logging off would silence whatever this process tests next."""
    yield
    left = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    assert left == logging.NOTSET, f"left logging.disable({left}) behind"


@pytest.fixture(scope="session", autouse=True)
def _toys_are_exported_once():
    if find_spec("torch") is None:  # a base installation: tests that export are skipped
        yield
        return
    import torch

    from tests.exported_once import remembered

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", remembered(torch.onnx.export))
        yield


@pytest.fixture(scope="session")
def corpus():
    return list(CORPUS)


@pytest.fixture(scope="session")
def shared():
    """The folder of real data, or a skip."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared data folder beside the project")
    return SHARED


def make_checkpoint(folder, *, seed=0, hidden=32, pooling="mean", normalize=True, pad_token="<pad>"):
    """Write a small random BERT checkpoint in sentence-transformers layout."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    from relsdk.bundle import EncoderSettings, write_layout

    # Made by rule: the library's Unigram trainer gives another vocabulary in each process.
    characters = sorted({character for text in CORPUS for character in text} - {" "})
    couples = sorted(
        {text[i : i + 2] for text in CORPUS for i in range(len(text) - 1) if " " not in text[i : i + 2]}
    )
    special = ["<s>", pad_token, "</s>", "<unk>", "<mask>"]
    vocabulary = [(token, 0.0) for token in special] + [("\u2581", -6.0)]
    vocabulary += [(piece, -8.0 - 0.01 * i) for i, piece in enumerate(characters)]
    vocabulary += [(piece, -10.0 - 0.01 * i) for i, piece in enumerate(couples)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
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
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
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


@pytest.fixture(scope="session")
def checkpoint_factory():
    return make_checkpoint


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "toy")


@pytest.fixture(scope="session")
def toy_bundle(toy_checkpoint, tmp_path_factory):
    """An exported toy encoder; shared by tests, so nobody may change it."""
    from relsdk_export.encoder import export_encoder

    return export_encoder(toy_checkpoint, tmp_path_factory.mktemp("bundles") / "toy").path


@pytest.fixture
def toy_bundle_copy(toy_bundle, tmp_path):
    """A toy encoder that a test may damage."""
    import shutil

    return Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))


@pytest.fixture
def relsdk(capsys):
    """Run the command in this process; return (exit code, stdout, stderr)."""

    from relsdk.cli import main

    def run(*arguments):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def relsdk_on_small_disk():
    """Run the command in a process that can write no file above so many bytes; return the ended process."""
    program = """
import resource, signal, sys
from relsdk.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv[1:] = sys.argv[2:]
main()
"""

    def run(size, *arguments):
        command = [sys.executable, "-W", "ignore", "-c", program, str(size), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    return run
