"""Cut layers, dimensions, vocabularies: what is left is what torch gives, and the cost is reported."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from relsdk import Embedder, RelevanceLevel
from relsdk.errors import InputError
from relsdk.formats import write_documents, write_pairs
from relsdk.models.bi_encoder import BiEncoder
from relsdk_checkpoint.loading import keep_layers
from relsdk_export.encoder import EncoderCuts, export_encoder
from relsdk_sample import generate
from tests.export.toy_architectures import CONFIGS, make_architecture


def test_one_layer_of_two(toy_checkpoint, corpus, tmp_path):
    bundle = export_encoder(toy_checkpoint, tmp_path / "out", variants=["fp32"], cuts=EncoderCuts(layers=[1]))
    assert json.loads((bundle.path / "config.json").read_text())["num_hidden_layers"] == 1
    model = transformers.AutoModel.from_pretrained(toy_checkpoint).eval()
    model.encoder.layer = model.encoder.layer[1:]
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy_checkpoint)
    for text, vector in zip(corpus, Embedder(bundle.path).encode_query(corpus), strict=True):
        with torch.inference_mode():
            tokens = model(**tokenizer(f"query: {text}", return_tensors="pt")).last_hidden_state
        expected = torch.nn.functional.normalize(tokens.mean(dim=1)).numpy()[0]
        np.testing.assert_allclose(vector, expected, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_without_layers_every_architecture_still_tells_tokens_apart(name, corpus, tmp_path):
    model = transformers.AutoModel.from_pretrained(make_architecture(name, tmp_path / "c", corpus)).eval()
    keep_layers(model, [])
    with torch.inference_mode():
        rows = model(input_ids=torch.tensor([[5, 6, 5]])).last_hidden_state[0]
    assert rows.isfinite().all()
    assert (rows[0] - rows[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_are_found_in_every_architecture(name, corpus, tmp_path):
    checkpoint = make_architecture(name, tmp_path / "c", corpus)
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()
    changes = keep_layers(model, [1])
    with torch.inference_mode():
        outputs = model(torch.tensor([[0, 7, 2]]), output_hidden_states=True)
    assert len(outputs.hidden_states) == 2  # before and behind the one that is left
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))  # as an export does
    assert transformers.AutoConfig.from_pretrained(checkpoint).num_hidden_layers == 1


@pytest.mark.parametrize("layers", [[], [2], [1, 0], [0, 0], [-1]])
def test_layers_that_are_not_there(toy_checkpoint, tmp_path, layers):
    with pytest.raises(InputError, match="rising numbers out of 0 to 1"):
        export_encoder(toy_checkpoint, tmp_path / "out", cuts=EncoderCuts(layers=layers))
    assert list(tmp_path.iterdir()) == []


def test_wrong_inputs_are_said_before_torch_is_loaded(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "tokenizer.json").write_text("{}")
    (tmp_path / "c" / "config.json").write_text('{"num_hidden_layers": 12}')
    (tmp_path / "empty.jsonl").touch()
    cases = [
        (["nothere"], "nothere does not exist"),
        (["c", "--keep-layers", "0,99"], "rising numbers out of 0 to 11"),
        (["c", "--vocabulary-from", "missing.jsonl"], "missing.jsonl: there is no such file"),
        (["c", "--vocabulary-from", "empty.jsonl"], "empty.jsonl: there are no rows"),
        (["c", "--pairs", "missing.jsonl"], "missing.jsonl: there is no such file"),
        (["c", "--query-tower", "nothere"], "nothere does not exist"),
    ]
    program = (
        "import json, sys\n"
        "from relsdk.cli import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    try: main(['export', 'encoder', arguments[0], 'out', *arguments[1:]])\n"
        "    except SystemExit as end: assert end.code == 2\n"
        "    assert not {'torch', 'transformers', 'onnx'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", program, json.dumps([arguments for arguments, _ in cases])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for line, (_, message) in zip(done.stderr.splitlines(), cases, strict=True):
        assert message in line


def test_a_fixed_dimension_is_what_truncation_gives(toy_checkpoint, toy_bundle, corpus, tmp_path):
    bundle = export_encoder(toy_checkpoint, tmp_path / "out", cuts=EncoderCuts(dimension=8))
    assert bundle.settings.dimension == 8
    full = Embedder(toy_bundle, variant="fp32", truncate_dim=8).encode_query(corpus)
    cut = Embedder(bundle.path, variant="fp32")
    np.testing.assert_allclose(cut.encode_query(corpus), full, atol=1e-5)
    assert cut._runner.session.output_names == ["sentence_embedding"]  # nobody else may pool 32 dimensions
    assert bundle.fingerprint != Embedder(toy_bundle).fingerprint
    for dimension in (0, 33):
        with pytest.raises(InputError, match="allowed are 1 to 32"):
            export_encoder(toy_checkpoint, tmp_path / "no", cuts=EncoderCuts(dimension=dimension))


@pytest.fixture(scope="module")
def pairs(toy_bundle):
    """Pairs whose levels are the quartiles of the whole toy encoder's cosine."""
    plain = generate(seed=9, n_documents=300, n_queries=24).pairs
    model = BiEncoder(Embedder(toy_bundle, variant="fp32"))
    cosines = model.outputs([(pair.query, pair.document) for pair in plain]).scores
    levels = np.searchsorted(np.quantile(cosines, [0.25, 0.5, 0.75]), cosines)
    return [replace(pair, level=RelevanceLevel(int(k))) for pair, k in zip(plain, levels, strict=True)]


def test_the_cost_of_cuts_is_measured_and_described(toy_checkpoint, pairs, tmp_path, relsdk):
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    write_documents(tmp_path / "docs.jsonl", [pair.document for pair in pairs[:50]])
    arguments = ["export", "encoder", toy_checkpoint, tmp_path / "out", "--keep-layers", "0", "--dim", "8"]
    arguments += ["--vocabulary-from", tmp_path / "docs.jsonl", "--pairs", tmp_path / "pairs.jsonl"]
    loose = ["--max-ap-loss", "1", "--max-ndcg-loss", "1", "--max-level-changes", "1", "--variant", "fp32"]
    code, out, err = relsdk(*arguments, *loose)
    assert code == 0, err
    assert "cut, fp32:" in out
    assert f"next: relsdk index build INDEX --model {tmp_path / 'out'} --input DOCS (levels: " in out
    content = json.loads((tmp_path / "out" / "relsdk.json").read_text())
    assert content["name"] == "out"  # the folder's; the checkpoint's is in the provenance
    assert content["provenance"]["checkpoint"] == toy_checkpoint.name
    cuts = content["provenance"]["cuts"]
    assert cuts["before"]["mean_ap"] == pytest.approx(1.0)  # the labels are the whole model's own
    assert cuts["after"]["mean_ap"] < 0.99
    assert cuts["dimension"] == {"before": 32, "after": 8}
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("layers kept: 0", "dimensions: 32 to 8", "pieces to", "| whole |", "fingerprint"):
        assert words in card
    assert content["files"]["README.md"]
    code, _, err = relsdk("export", "encoder", toy_checkpoint, tmp_path / "no", "--keep-layers", "a")
    assert code == 2
    assert "numbers with commas" in err
