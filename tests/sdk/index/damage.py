"""Ways to damage a copy of an index, chosen by a seed: by accident, or with a manifest that agrees."""

import json
import sqlite3
import struct

import numpy as np

from relsdk.files.folders import file_sha256, json_sha256

GENERATION = "gen-000001"
FILES = ("vectors.npy", "documents.sqlite", "graph.hnsw", "twins.npy")
HEADER = 96  # of the graph file
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"
DEEP = "[" * 100_000 + "]" * 100_000


def sign(folder, change=lambda content: None):
    """Make the manifest of a generation agree with its files."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, entry in content["files"].items():
        if (folder / name).is_file():
            entry.update(size=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
    change(content)
    content.pop("checksum", None)
    path.write_text(json.dumps({**content, "checksum": json_sha256(content)}), encoding="utf-8")


def damage(index, seed):
    """Damage the index in a folder; return what was done and whether the manifest agrees."""
    random = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    agrees = bool(random.integers(2)) or kind in (manifest, pointer)
    folder = index / GENERATION
    before = {path: path.read_bytes() for path in [index / "CURRENT", *folder.iterdir()]}
    what = kind(folder, random)
    if all(path.is_file() and path.read_bytes() == content for path, content in before.items()):
        flipped(folder, random)
        what += ", then flipped"
    if agrees and kind not in (manifest, pointer):
        sign(folder)
    return f"{seed}: {what}", agrees


def flipped(folder, random):
    path = folder / FILES[random.choice(4, p=[0.2, 0.35, 0.35, 0.1])]
    content = bytearray(path.read_bytes())
    for _ in range(int(random.integers(1, 17))):
        content[random.integers(len(content))] ^= int(random.integers(1, 256))
    path.write_bytes(content)
    return f"bytes of {path.name} flipped"


def words(folder, random):
    """Numbers that matter: offsets, counts and links are words."""
    path = folder / FILES[random.choice(4, p=[0.1, 0.3, 0.5, 0.1])]
    content = bytearray(path.read_bytes())
    for _ in range(int(random.integers(1, 9))):
        word = int(random.choice([0, 1, 2, 255, 299, 300, 301, 65536, 2**31 - 1, 2**31, 2**32 - 1]))
        struct.pack_into("<I", content, 4 * int(random.integers(len(content) // 4)), word)
    path.write_bytes(content)
    return f"words of {path.name} changed"


def start(folder, random):
    """The beginning of a file: headers."""
    path = folder / FILES[random.integers(4)]
    content = bytearray(path.read_bytes())
    for _ in range(int(random.integers(1, 5))):
        content[random.integers(min(HEADER, len(content)))] = int(random.integers(256))
    path.write_bytes(content)
    return f"the start of {path.name} changed"


def links(folder, random):
    """Counts, links, labels and sizes of lists in the graph file."""
    path = folder / "graph.hnsw"
    content = bytearray(path.read_bytes())
    stride = struct.unpack_from("<Q", content, 24)[0]
    place = int(
        random.choice(
            [
                HEADER + stride * random.integers(300),
                HEADER + stride * random.integers(300) + 4 * random.integers(1, 33),
                HEADER + stride * random.integers(1, 301) - 8,
                HEADER + stride * 300 + 4 * random.integers((len(content) - HEADER - stride * 300) // 4),
                48 + 4 * random.integers(2),
            ]
        )
    )
    word = int(random.choice([0, 1, 17, 33, 68, 136, 299, 300, 2**16, 2**24, 2**31, 2**32 - 1]))
    struct.pack_into("<I", content, place, word)
    path.write_bytes(content)
    return f"graph word at {place} set to {word}"


def length(folder, random):
    path = folder / FILES[random.integers(4)]
    content = path.read_bytes()
    size = int(random.choice([0, 1, 95, 127, 128, len(content) // 2, len(content) - 4, len(content) + 16]))
    path.write_bytes(content[:size].ljust(size, b"\0"))
    return f"{path.name} has {size} bytes"


def zeros(folder, random):
    path = folder / FILES[random.integers(3)]
    content = bytearray(path.read_bytes())
    first = 512 * int(random.integers(len(content) // 512))
    size = int(random.choice([512, 4096, 65536]))
    content[first : first + size] = bytes(len(content[first : first + size]))
    path.write_bytes(content)
    return f"{path.name} zeroed from {first}"


def swapped(folder, random):
    first, second = (folder / FILES[i] for i in random.choice(4, 2, replace=False))
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    return f"{first.name} and {second.name} swapped"


SCHEMAS = [
    f"ALTER TABLE documents RENAME TO hidden; CREATE VIEW documents(row) AS {ENDLESS};",
    f"CREATE VIEW more AS {ENDLESS};",
    "CREATE TRIGGER t AFTER INSERT ON documents BEGIN DELETE FROM documents; END;",
    "CREATE TABLE other (x);",
    "CREATE VIRTUAL TABLE words USING fts5(x);",
    "CREATE INDEX extra ON documents(title);",
    "ALTER TABLE documents ADD COLUMN more AS (hex(zeroblob(1000000)));",
    "DROP TABLE documents;",
    "PRAGMA user_version = 7; PRAGMA writable_schema = ON; DELETE FROM sqlite_master;",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = 1;",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 'CREATE TABLE documents (row, id)' "
    "WHERE type = 'table';",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = 3 - (rootpage = 3);",
]
ROWS = [
    "UPDATE documents SET metadata = '{' WHERE row = {row}",
    "UPDATE documents SET metadata = '[1]' WHERE row = {row}",
    "UPDATE documents SET metadata = '1,2' WHERE row = {row}",
    "UPDATE documents SET metadata = '{}, {}' WHERE row = {row}",
    "UPDATE documents SET metadata = '{\"a\": NaN}' WHERE row = {row}",
    f"UPDATE documents SET metadata = '{DEEP}' WHERE row = {{row}}",
    "UPDATE documents SET metadata = x'ff' WHERE row = {row}",
    "UPDATE documents SET title = x'ff00' WHERE row = {row}",
    "UPDATE documents SET text = CAST(x'ff' AS TEXT) WHERE row = {row}",
    "UPDATE documents SET id = x'00' WHERE row = {row}",
    "UPDATE documents SET row = 10000 WHERE row = {row}",
    "UPDATE documents SET row = -5 WHERE row = {row}",
    "DELETE FROM documents WHERE row = {row}",
    "DELETE FROM documents WHERE row > {row}",
    "INSERT INTO documents SELECT 9000000000000000000, 'x', '{}', '', ''",
]


def _execute(folder, script):
    connection = sqlite3.connect(folder / "documents.sqlite")
    try:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.executescript(script)
    except sqlite3.Error:
        pass  # so it stays as it was, and is flipped
    finally:
        connection.close()


def schema(folder, random):
    script = str(random.choice(SCHEMAS))
    _execute(folder, script)
    return script


def rows(folder, random):
    script = str(random.choice(ROWS)).replace("{row}", str(random.integers(300)))
    _execute(folder, script)
    return script[:80]


def values(folder, random):
    """Vectors that are none: in the matrix, or in the graph's copy."""
    value = float(random.choice([np.nan, np.inf, -np.inf, 0.0, 4.6, 1e38]))
    count = int(random.choice([1, 10, 300]))
    if random.integers(2):
        path = folder / "vectors.npy"
        content = bytearray(path.read_bytes())
        found = np.frombuffer(content, "<f4", offset=128).reshape(300, 32)
    else:
        path = folder / "graph.hnsw"
        content = bytearray(path.read_bytes())
        stride = struct.unpack_from("<Q", content, 24)[0]
        found = np.ndarray((300, 32), "<f4", content, HEADER + 132, (stride, 4))
    found[random.choice(300, count, replace=False)] = value
    path.write_bytes(content)
    return f"{count} vectors in {path.name} are {value}"


def pairs(folder, random):
    choices = [
        [[5, 5]],
        [[5, 4], [4, 5]],
        [[4, 3], [5, 4]],
        [[3, 5]],
        [[5, 3], [5, 4]],
        [[7, 3], [6, 3]],
        [[-1, -2]],
        [[300, 0]],
        [[2**62, 0]],
        [[6, 3], [7, 3]],
        [[i, 0] for i in range(1, 300)],
    ]
    chosen = np.array(choices[random.integers(len(choices))], dtype=np.int64)
    np.save(folder / "twins.npy", chosen)
    return f"twins {chosen[:3].tolist()}"


def manifest(folder, random):
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    places = ["format", "version", "config", "count", "dimension", "encoder", "created", "libraries", "files"]
    places += [("config", name) for name in content["config"]] + [
        ("encoder", name) for name in content["encoder"]
    ]
    places += [("files", name) for name in FILES] + [("files", name, "size") for name in FILES]
    place = places[random.integers(len(places))]
    *parents, name = (place,) if isinstance(place, str) else place
    value = [None, -1, 0, 2**31, 2**70, 1.5, True, "x", "flat", [], {}, [[]], "../../x"][random.integers(13)]

    def change(content):
        for parent in parents:
            content = content[parent]
        content[name] = value

    sign(folder, change)
    return f"manifest: {place} = {value!r}"


def pointer(folder, random):
    content = [b"", b"gen-000002\n", b"../gen-000001", b"\xff" * 70, b"gen-000001\n\n", bytes(100)]
    (folder.parent / "CURRENT").write_bytes(content[random.integers(len(content))])
    return "CURRENT changed"


KINDS = [
    flipped,
    words,
    links,
    start,
    schema,
    rows,
    links,
    values,
    length,
    flipped,
    pairs,
    words,
    schema,
    rows,
    zeros,
    links,
    manifest,
    swapped,
    start,
    pointer,
]
