"""Toy folders as sentence-transformers leaves them, made without torch."""

import json
import shutil
from pathlib import Path

import numpy as np

from tests.bundle_changes import change_json

FIXTURE = Path(__file__).parents[1] / "fixtures" / "encoder-bundle-v1"
WIDTH, PIECES = 8, 251
TABLE = np.random.default_rng(0).normal(size=(PIECES, WIDTH)).astype(np.float32)


def write_table(path, *, output="last_hidden_state", dtype=np.float32, shape=("b", "t"), table=TABLE, **save):
    """A graph that looks its tokens up in a table; the mask is asked for, too, and not used."""
    import onnx
    from onnx import helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.INT64, list(shape))
        for name in ("input_ids", "attention_mask")
    ]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], [output])],
        "toy",
        inputs,
        [helper.make_tensor_value_info(output, kind, [*shape, table.shape[1]])],
        [numpy_helper.from_array(table.astype(dtype), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, **save)


def make_folder(folder, *, pooling="mean", normalize=False, dense=(), graph=True):
    """A folder of a tokenizer, a table and modules; `dense` holds (weight, bias or None, activation)."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (FIXTURE / name).is_file():
            shutil.copyfile(FIXTURE / name, folder / name)
    change_json(
        folder / "config.json",
        architectures=["BertModel"],
        model_type="bert",
        hidden_size=WIDTH,
        pad_token_id=1,
    )
    change_json(folder / "1_Pooling/config.json", word_embedding_dimension=WIDTH, pooling_mode=pooling)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    for weight, bias, activation in dense:
        name = f"{len(modules)}_Dense"
        write_dense(folder / name, weight, bias, activation)
        modules.append((name, "Dense"))
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    write_modules(folder, modules)
    if graph:
        write_table(folder / "onnx/model.onnx")
    return folder


def write_modules(folder, modules):
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


def write_dense(folder, weight, bias, activation):
    folder.mkdir()
    behind, before = weight.shape
    change_json(
        folder / "config.json",
        in_features=before,
        out_features=behind,
        bias=bias is not None,
        activation_function=f"torch.nn.modules.{activation}",
    )
    tensors = {"linear.weight": weight, **({} if bias is None else {"linear.bias": bias})}
    header, content = {}, b""
    for name, values in tensors.items():
        part = values.astype("<f4").tobytes()
        offsets = [len(content), len(content) + len(part)]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": offsets}
        content += part
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content)


def rows(text, limit=None, *, side="right"):
    """The token vectors of a text, (T, D), by the tokenizers package itself."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(FIXTURE / "tokenizer.json"))
    if limit:
        tokenizer.enable_truncation(limit, direction=side)
    return TABLE[tokenizer.encode(text).ids]


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
