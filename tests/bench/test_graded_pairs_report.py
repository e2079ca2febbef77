"""The report of trainings, from rows that are written by hand."""

import json

from bench.experiments.graded_pairs_report import write_report


def row(mean_ap, ndcg):
    names = ("ap_1", "ap_2", "ap_3", *(f"mean_ap@{dim}" for dim in (32, 64, 128, 256)))
    return {"test": {**dict.fromkeys(names, 0.5), "mean_ap": mean_ap, "ndcg_at_10": ndcg}}


def test_what_a_student_keeps_and_what_its_query_costs(tmp_path):
    rows = {
        "untrained": row(0.80, 0.90),
        "embed / seed 0": row(0.90, 0.92),
        "embed / seed 1": row(0.90, 0.94),
        "student, 2 layers / seed 0": row(0.88, 0.92),
        "student, 2 layers / seed 1": row(0.89, 0.92),
        "query tower, 2 layers / seed 1": row(0.90, 0.93),
        "query tower, 1 layer / seed 7": row(0.90, 0.93),  # without its teacher
    }
    for name, cpu, features, share in (("", "A", ["avx2"], 0.25), ("_amx", "B", ["amx_int8"], 0.125)):
        content = {
            "machine": {"cpu": cpu, "cpu_features": features},
            "variant": "int8",
            "models": {"embed": {"time_to_teacher": 1.0}, "student, 2 layers": {"time_to_teacher": share}},
        }
        (tmp_path / f"student_latency{name}.json").write_text(json.dumps(content))
    write_report(rows, tmp_path / "train.md")
    lines = (tmp_path / "train.md").read_text().splitlines()
    start = lines.index(next(line for line in lines if "share of the teacher's gain" in line))
    table = [line for line in lines[start:] if line.startswith("|")]
    assert table == [
        "| run | seeds | nDCG@10 | mean AP | query time, A, int8 | query time, B with AMX, int8 |",
        "| --- | --- | --- | --- | --- | --- |",
        "| student, 2 layers | 0, 1 | 75.0 | 85.0 | 25.0 | 12.5 |",
        "| query tower, 2 layers | 1 | 75.0 | 100.0 |  |  |",
    ]


def test_without_a_timed_student_there_is_no_time(tmp_path):
    rows = {"untrained": row(0.8, 0.9), "embed / seed 0": row(0.9, 0.92), "student / seed 0": row(0.9, 0.92)}
    write_report(rows, tmp_path / "train.md")
    assert "| student | 0 | 100.0 | 100.0 |" in (tmp_path / "train.md").read_text()
