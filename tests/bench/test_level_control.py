"""Level control: shares of the ceiling by hand, and the command with a toy score model."""

import json

import numpy as np
import pytest
import torch

from bench.experiments import level_control
from relsdk.formats import write_pairs
from relsdk.records import Document, LabelledPair
from relsdk_checkpoint.pair_scores import PairClassifier
from relsdk_checkpoint.scorer import ScoreModel
from tests.bench.test_bench import call, toy_shared
from tests.training.ssra.run_folders import record, write_stage

# Documents of one title, whose queries say what the outsider finds: "3 甲" has level 3.
OWN = [
    *(record(f"1 甲{number}", 1, 1) for number in range(3)),
    record("2 甲", 1, 1),
    record("2 甲", 2, 2),
    record("1 乙", 2, None, "cleaning"),  # dropped: nobody asks
    record("3 甲", 0, 0),  # of no level that is asked for
]


class Reader:
    """Reads the level from the first character of a query."""

    def __init__(self, run):
        pass

    def levels(self, pairs):
        return np.array([int(query[0]) for query, _ in pairs], dtype=np.int64)


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs/with opinions"
    write_stage(folder, "09-filter-1", OWN[:4])
    write_stage(folder, "13-filter-2", OWN[4:])
    write_stage(folder, "89-filter-written", [record("3 乙", 3, 3, source="written")])
    write_stage(folder, "90-balance", [record("1 丙", 3, 3)])  # what is used is not what was written
    return folder


def test_shares_of_the_ceiling_by_hand(run_folder, tmp_path, monkeypatch):
    (tmp_path / "outsider/best").mkdir(parents=True)
    monkeypatch.setattr(level_control, "Outsider", Reader)
    labelled = [("1 a", 1), ("1 b", 1), ("1 c", 1), ("0 d", 1), ("2 e", 2), ("1 f", 2), ("3 g", 3)]
    document = Document("1", "标题", "")
    write_pairs(tmp_path / "test.jsonl", [LabelledPair(query, document, level) for query, level in labelled])
    row = level_control.level_control(tmp_path / "outsider", tmp_path / "test.jsonl", run_folder)
    assert row["ceiling"] == [
        {"level": 0, "pairs": 0, "found": None},
        {"level": 1, "pairs": 4, "found": 0.75},
        {"level": 2, "pairs": 2, "found": 0.5},
        {"level": 3, "pairs": 1, "found": 1.0},
    ]
    one, two, three = row["kept"]
    low, high = one.pop("interval")
    assert 0 <= low < 0.75 < high <= 1
    assert one == {"level": 1, "queries": 4, "checked": 4, "found": 0.75, "of_ceiling": 1.0}
    assert two == {
        "level": 2,
        "queries": 1,
        "checked": 1,
        "found": 1.0,
        "interval": [1.0, 1.0],
        "of_ceiling": 2.0,
    }
    assert three == {
        "level": 3,
        "queries": 0,
        "checked": 0,
        "found": None,
        "interval": None,
        "of_ceiling": None,
    }
    assert [of["queries"] for of in row["given"]] == [0, 0, 1]
    assert row["repeats"] == pytest.approx(1 / 6, abs=1e-4)  # "2 甲", of two rounds
    assert row["first_repeats"] == {"09-filter-1": 0.0, "13-filter-2": 0.0, "89-filter-written": 0.0}


def test_a_seeded_sample(run_folder, tmp_path, monkeypatch):
    (tmp_path / "outsider/best").mkdir(parents=True)
    asked = []

    class Listener(Reader):
        def levels(self, pairs):
            asked.append([query for query, _ in pairs])
            return super().levels(pairs)

    monkeypatch.setattr(level_control, "Outsider", Listener)
    write_pairs(tmp_path / "test.jsonl", [LabelledPair("1 a", Document("1", "标题", ""), 1)])
    samples = set()
    for seed in [*range(8), 0]:
        asked.clear()
        row = level_control.level_control(
            tmp_path / "outsider", tmp_path / "test.jsonl", run_folder, queries=2, seed=seed
        )
        assert row["kept"][0]["checked"] == 2
        assert len(asked[1]) == 2
        samples.add(tuple(asked[1]))
    assert 1 < len(samples) <= 6  # of four queries, two; seed 0 gives the same twice
    assert tuple(asked[1]) in samples


def test_the_command_at_toy_size(toy_checkpoint, run_folder, tmp_path):
    torch.manual_seed(1)
    model = ScoreModel.load(toy_checkpoint, "categorical")
    torch.nn.init.normal_(model.transformer.classifier.weight)
    (tmp_path / "outsider/best").mkdir(parents=True)
    model.save(tmp_path / "outsider/best")
    shared = toy_shared(tmp_path / "shared", toy_checkpoint)
    output = tmp_path / "results/level_control.json"
    arguments = ["--shared", shared, "--run", run_folder, "--output", output, "--seed", 3, "--outsider"]
    done = call("bench.experiments.level_control", *arguments, tmp_path / "outsider")
    assert done.exit_code == 0, done.output
    assert "of the ceiling" in done.output
    row = json.loads(output.read_text())
    assert row["machine"]["seed"] == 3
    assert row["run"] == "with opinions"
    assert str(tmp_path) not in output.read_text()
    # An independent reading of the same model.
    reader = PairClassifier(tmp_path / "outsider/best", "categorical", max_tokens=96)
    pairs = [(one["query"], "标题 正文") for one in OWN if one["kept"] and one["wanted"] == 1]
    found = reader.logits(reader.tokenizer.tokenize(pairs)).argmax(axis=1) == 1
    assert row["kept"][0]["found"] == pytest.approx(found.mean(), abs=1e-4)
    labelled = (shared / "data/kuake_qtr/test.jsonl").read_text().splitlines()
    assert sum(of["pairs"] for of in row["ceiling"]) == len(labelled)
    nobody = call("bench.experiments.level_control", *arguments, shared)
    assert nobody.exit_code == 2
    assert "no score model in best/" in nobody.output
