"""Changes that tests make to bundles."""

import json

from relsdk.files.folders import json_sha256


def read_description(folder):
    return json.loads((folder / "relsdk.json").read_text(encoding="utf-8"))


def write_description(folder, content):
    """Write relsdk.json with a checksum that is right."""
    content = {key: value for key, value in content.items() if key != "checksum"}
    content["checksum"] = json_sha256(content)
    (folder / "relsdk.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def make_foreign(folder):
    """Remove what only relsdk writes."""
    (folder / "relsdk.json").unlink()
    (folder / "golden.json").unlink()
    (folder / ".relsdk.lock").unlink(missing_ok=True)
    return folder
