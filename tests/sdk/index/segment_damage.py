"""Ways to damage a copy of an index of format 2, chosen by a seed: segments, bitmaps, manifest, pointer."""

import json
import shutil
import struct

import numpy as np

from relsdk.calibration import HybridLink
from relsdk.files.folders import file_sha256, json_sha256
from relsdk.index import Index, IndexConfig, _changes, _segment_writer
from relsdk.records import Document
from tests.sdk.index import damage as old


def make(folder, fixture, monkeypatch, encoder):
    """Write two indexes: of 300 vectors as in format 1 and further segments, and of passages.

    Args:
        folder: Where.
        fixture: An index of format 1 with 300 documents.
        monkeypatch: Of pytest.
        encoder: Of the second.

    Returns:
        Their paths.
    """
    for module in (_changes, _segment_writer):
        monkeypatch.setattr(module, "GRAPH_ROWS", 60)
    with Index.open(fixture) as index:
        documents, vectors = list(index.documents()), index.vectors.copy()
        info = index.info()

    class Same:
        name, fingerprint, dimension = info.encoder_name, info.encoder_fingerprint, info.dimension

        def encode_document(self, inputs):
            raise AssertionError("vectors are given")

    Index.build(
        folder / "segments", documents, Same(), vectors=vectors, config=IndexConfig(int8=True)
    ).close()
    more = [Document(f"m{i}", f"more {i}", "红烧肉", one.metadata) for i, one in enumerate(documents[:100])]
    tilted = vectors[:100] + 0.3 * vectors[100:200]
    tilted /= np.linalg.norm(tilted, axis=1, keepdims=True)
    with Index.open(folder / "segments") as index:
        index.add(more[:80], vectors=tilted[:80])
        index.delete([document.id for document in documents[3:200:9]])
        index.upsert([*more[5:20], *more[80:]], vectors=np.concatenate([tilted[5:20], tilted[80:]]))
        index.store_hybrid({"fp32": HybridLink(9.0, 1.0, (2.0, 3.0, 4.0))})
    texts = ["第一句。第二句话长一些。第三句？", "短。", "", "另一篇很长的文章，没有标点也要切开来看看"]
    long = [Document(f"p{i}", f"t{i}", texts[i % 4], {"n": i, "topic": "x"}) for i in range(90)]
    config = IndexConfig(passage_characters=8)
    with Index.build(folder / "passages", long[:60], encoder, config=config) as index:
        index.add(long[60:], encoder)
        index.delete(["p7", "p70"])
    return folder / "segments", folder / "passages"


def current(index):
    return index / (index / "CURRENT").read_text().strip()


def read_manifest(index):
    return json.loads((current(index) / "manifest.json").read_text(encoding="utf-8"))


def sign(index, change=lambda content: None):
    """Make the current manifest agree with the files."""
    content = read_manifest(index)
    places = [(index / segment["folder"], segment["files"]) for segment in content["segments"]]
    for folder, files in [*places, (current(index), content["files"])]:
        for name, entry in files.items():
            if (folder / name).is_file():
                entry.update(size=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
    change(content)
    content.pop("checksum", None)
    text = json.dumps({**content, "checksum": json_sha256(content)})
    (current(index) / "manifest.json").write_text(text, encoding="utf-8")


def files_of(index):
    """Every file that the current generation needs, beside its manifest."""
    content = read_manifest(index)
    inside = [index / one["folder"] / name for one in content["segments"] for name in one["files"]]
    return sorted([*inside, *(current(index) / name for name in content["files"])])


def damage(index, seed):
    """Damage the index in a folder; return what was done and whether the manifest agrees."""
    random = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    if kind in OLD and index.name.startswith("passages"):
        kind = passages
    forged = kind in (manifest, pointer)
    agrees = bool(random.integers(2)) or forged
    before = {path: path.read_bytes() for path in files_of(index)}
    if kind in OLD:
        what = kind(index / read_manifest(index)["segments"][0]["folder"], random)
    else:
        what = kind(index, random)
    while not forged and all(path.is_file() and path.read_bytes() == was for path, was in before.items()):
        what += f", then {any_file(index, random)}"
    if agrees and not forged:
        sign(index)
    return f"{index.name} {seed}: {what}", agrees


def any_file(index, random):
    """Bytes, words, the beginning or the length of a file, which many are too small for `damage.zeros`."""
    files = files_of(index)
    path = files[random.integers(len(files))]
    content = bytearray(path.read_bytes())
    way = random.integers(5)
    if way == 0:
        for _ in range(int(random.integers(1, 9))):
            content[random.integers(len(content))] ^= int(random.integers(1, 256))
    elif way == 1 and len(content) >= 8:
        for _ in range(int(random.integers(1, 5))):
            word = int(random.choice([0, 1, 2, 59, 60, 300, 65536, 2**31 - 1, 2**31, 2**32 - 1]))
            struct.pack_into("<I", content, 4 * int(random.integers(len(content) // 4)), word)
    elif way == 2:
        place = int(random.integers(min(128, len(content))))
        content[place] = (content[place] + int(random.integers(1, 256))) % 256
    elif way == 3:
        size = int(random.choice([0, 1, len(content) // 2, max(len(content) - 4, 0), len(content) + 16]))
        content = content[:size].ljust(size, b"\0")
    else:
        other = files[random.integers(len(files))]
        content = bytearray(other.read_bytes())
    path.write_bytes(content)
    return f"{path.relative_to(index)} changed in way {way}"


def bitmap(index, random):
    """Which documents are dead: others, all, none, or not as many bits."""
    paths = sorted(current(index).glob("dead-*.bits"))
    path = paths[random.integers(len(paths))]
    bits = np.unpackbits(np.frombuffer(path.read_bytes(), dtype=np.uint8))
    way = random.integers(5)
    if way == 0:  # as many
        bits = random.permutation(bits)
    elif way == 1:
        bits[random.integers(len(bits))] ^= 1
    elif way in (2, 3):
        bits[:] = way - 2
    content = np.packbits(bits).tobytes()
    path.write_bytes(content[:-1] if way == 4 else content)
    return f"{path.name} changed in way {way}"


def missing(index, random):
    files = files_of(index)
    path = files[random.integers(len(files))]
    if random.integers(2) and path.parent.parent.name == "segments":
        shutil.rmtree(path.parent)
        return f"{path.parent.name} is gone"
    path.unlink()
    return f"{path.relative_to(index)} is gone"


def exchanged(index, random):
    """Two segments have each other's name, or one holds a part of another."""
    first, second = (index / one["folder"] for one in read_manifest(index)["segments"][:2])
    if random.integers(2):
        first.rename(index / "x")
        second.rename(first)
        (index / "x").rename(second)
        return "two segments exchanged"
    names = sorted({path.name for path in first.iterdir()} & {path.name for path in second.iterdir()})
    name = names[random.integers(len(names))]
    (second / name).write_bytes((first / name).read_bytes())
    return f"{name} of another segment"


def passages(index, random):
    """Which document a vector belongs to, and where it stands in its text."""
    paths = [path for path in files_of(index) if path.name == "passages.npy"]
    if not paths:
        return any_file(index, random)
    path = paths[random.integers(len(paths))]
    content = bytearray(path.read_bytes())
    spans = np.frombuffer(content, "<i8", offset=128).reshape(-1, 3)
    row, column = int(random.integers(len(spans))), int(random.integers(3))
    value = int(random.choice([-1, 0, 1, 2, 7, 59, 10_000, 2**40, -(2**62)]))
    spans[row, column] = value
    path.write_bytes(content)
    return f"passage {row}, column {column} set to {value}"


def manifest(index, random):
    content = read_manifest(index)
    places = [(name,) for name in content] + [("encoder", name) for name in content["encoder"]]
    places += [("config", name) for name in content["config"]] + [
        ("files", name) for name in content["files"]
    ]
    for number, segment in enumerate(content["segments"]):
        places += [("segments", number, name) for name in segment]
        places += [("segments", number, "files", name) for name in segment["files"]]
        places += [("segments", number, "files", name, "size") for name in segment["files"]]
    *parents, name = places[random.integers(len(places))]
    values = [
        None,
        -1,
        0,
        1,
        60,
        2**31,
        2**70,
        1.5,
        True,
        "x",
        "flat",
        [],
        {},
        [[]],
        "../../x",
        "segments/..",
    ]
    values += ["gen-000001", "segments/seg-000001", "segments/seg-000009"]
    value = values[random.integers(len(values))]

    def change(content):
        for parent in parents:
            content = content[parent]
        if value is None and random.integers(2):
            del content[name]
        else:
            content[name] = value

    sign(index, change)
    return f"manifest: {parents} {name} = {value!r}"


def pointer(index, random):
    content = [b"", b"gen-000009\n", b"gen-000004\n", b"segments/seg-000001\n", b"\xff" * 70, bytes(100)]
    (index / "CURRENT").write_bytes(content[random.integers(len(content))])
    return "CURRENT changed"


OLD = [old.flipped, old.words, old.start, old.links, old.schema, old.rows, old.values, old.length, old.pairs]
OLD += [old.zeros, old.swapped]
KINDS = [
    any_file,
    bitmap,
    manifest,
    any_file,
    passages,
    exchanged,
    missing,
    any_file,
    manifest,
    pointer,
    *OLD,
]
