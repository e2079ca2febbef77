"""Stages of a run as they lie on disk, and records whose counts are known."""

import json


def record(query, wanted, predicted, dropped=None, *, title="标题", source="synthesised", **changed):
    probabilities = [] if predicted is None else [0.1 + 0.6 * (level == predicted) for level in range(4)]
    return {
        "query": query,
        "document": {"id": "d1", "title": title, "text": "正文"},
        "wanted": wanted,
        "predicted": predicted,
        "probabilities": probabilities,
        "judge": None,
        "kept": dropped is None,
        "dropped_because": dropped,
        "round": 1,
        "model": None,
        "source": source,
        **changed,
    }


# Levels: 3 twice (one kept), 2 three times (one kept), 1 once, 0 once, and one with no level at all.
SYNTHESISED = [
    record("红烧肉做法", 3, 3),
    record("红烧肉 Recipe 2", 2, 1, "score"),
    record("红烧肉 RECIPE ２", 2, 2),  # a duplicate, up to case and width
    record("标题", 3, None, "echo"),
    record("abc", 1, 1, "judge", judge={"verdict": "contradicts", "expected_level": 2.5}),
    record("abc", None, 0, source="annotated"),  # a duplicate
    record("abc", 2, None, "duplicate", source="labelled"),  # seen before, but not made here
    record("  ", None, None, "cleaning"),
]
BALANCED = [
    record("原有一", None, 3, source="labelled"),
    record("原有二", None, 3, source="labelled"),
    record("合成", 1, 1),
    record("合成的", 2, 2),
]


def write_stage(run, name, records=None, *, report=None, seconds=1.5, per_shard=3):
    folder = run / "stages" / name
    folder.mkdir(parents=True)
    shards = [] if records is None else range(0, len(records), per_shard)
    for number, start in enumerate(shards):
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in records[start : start + per_shard]]
        (folder / f"records-{number:05d}.jsonl").write_text("".join(lines), encoding="utf-8")
    stage = {"stage": name, "identity": "0" * 64, "outputs": {}, "seconds": seconds, "report": report or {}}
    (folder / "stage.json").write_text(json.dumps(stage))
    row = run / "row.json"
    names = json.loads(row.read_text())["stages"] if row.exists() else []
    row.write_text(json.dumps({"stages": [*names, name]}))
    return folder


def write_run(folder):
    """A run of three stages."""
    write_stage(folder, "05-synthesise", SYNTHESISED)
    write_stage(folder, "06-balance", BALANCED)
    write_stage(folder, "07-embed", report={"dev": {"mean_ap": 0.61234, "ndcg_at_10": 0.7}})
    return folder
