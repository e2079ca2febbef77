"""Changes that tests make to bundles."""

import json

from relsdk.files.folders import json_sha256


def read_description(folder):
    return json.loads((folder / "relsdk.json").read_text(encoding="utf-8"))


def write_description(folder, content):
    """Write relsdk.json as the SDK does, with a checksum that is right."""
    content = {key: value for key, value in content.items() if key != "checksum"}
    content["checksum"] = json_sha256(content)
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    (folder / "relsdk.json").write_text(text, encoding="utf-8")


def make_foreign(folder):
    """Remove what only relsdk writes."""
    (folder / "relsdk.json").unlink()
    (folder / "golden.json").unlink()
    (folder / ".relsdk.lock").unlink(missing_ok=True)
    return folder


def change_json(path, **keys):
    """Write or change keys of a JSON file."""
    path.parent.mkdir(exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **keys}))


def drop_output(path, name):
    """Remove an output of a graph."""
    import onnx

    model = onnx.load(path)
    kept = [output for output in model.graph.output if output.name != name]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, path)
