"""Steps that learn from people's labels alone, and trainings that measure nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from relsdk.errors import InputError
from relsdk_training.engine._log import read_log
from tests.training.linear_objective import (
    HUMAN_ROWS,
    LinearObjective,
    into,
    linear_config,
    train_linear,
    train_linear_until,
)


def config_of(output, human_last, **run):
    config = linear_config(output, **run)
    return replace(config, data=replace(config.data, human_last=human_last))


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")["transformer.weight"]


def learned(config, **options):
    """Return the batches that a training learns from, and how it ended."""
    objective = LinearObjective(config.run, **options)
    result = train_linear(config, objective=objective)
    return objective.learned, result


@pytest.mark.parametrize(
    ("run", "human_last", "mixed", "last"),
    [
        ({"max_steps": 10}, 0.3, 7, 3),
        ({"max_steps": 10}, 0.01, 9, 1),  # at least one step
        ({"max_steps": 40}, 0.5, 20, 20),  # several passes over each part
        ({"max_steps": 0, "epochs": 3}, 0.25, 10, 4),  # epochs of 5, 4 and 5 batches
        ({"max_steps": 5, "accumulation": 2}, 0.4, 3, 2),
    ],
)
def test_the_last_share_of_the_steps_takes_what_people_labelled(tmp_path, run, human_last, mixed, last):
    mixture, _ = learned(linear_config(tmp_path / "mixture", **run))
    batches, result = learned(config_of(tmp_path / "run", human_last, **run))
    size = run.get("accumulation", 1)
    assert result.steps == mixed + last
    if size == 1:
        assert len(batches) == len(mixture) == mixed + last
        assert batches[:mixed] == mixture[:mixed]  # as without it
        people = [
            batch.tolist()
            for epoch in range(20)
            for batch in LinearObjective(linear_config(tmp_path).run).batches(epoch, human=True)
        ]
        assert batches[mixed:] == people[:last]
    assert all(row < HUMAN_ROWS for batch in batches[-last * size :] for row in batch)
    assert any(row >= HUMAN_ROWS for batch in batches[: mixed * size] for row in batch)


@pytest.mark.parametrize(("steps", "human_last"), [(10, 0.96), (1, 0.1)])
def test_opinions_have_a_step(tmp_path, steps, human_last):
    with pytest.raises(InputError, match=f"human_last={human_last} leaves none of {steps} steps"):
        learned(config_of(tmp_path / "run", human_last, max_steps=steps))


def test_labels_that_fill_no_batch_are_told_before_the_first_step(tmp_path):
    config = config_of(tmp_path / "run", 0.3)
    objective = LinearObjective(config.run)
    batches = objective.batches
    objective.batches = lambda epoch, *, human=False: [] if human else batches(epoch)
    with pytest.raises(InputError, match="does not fill one batch"):
        train_linear(config, objective=objective)
    assert objective.learned == []


@pytest.mark.parametrize("stop", [3, 6, 8, 9])
def test_a_resume_in_either_part_is_exact(tmp_path, stop):
    config = config_of(tmp_path / "whole", 0.4, max_steps=10, checkpoint_every=1)
    train_linear(config)
    halves = into(config, tmp_path / "halves")
    train_linear_until(stop, halves)
    torch.manual_seed(3)
    train_linear(halves, resume=True)
    assert torch.equal(weights(tmp_path / "whole/last"), weights(tmp_path / "halves/last"))


def test_without_dev_the_last_step_is_best_and_nothing_is_said_of_dev(tmp_path):
    config = linear_config(tmp_path / "run", evaluate_every=3)
    objective = LinearObjective(config.run, measures=False)
    result = train_linear(config, objective=objective)
    assert (result.best, result.best_step, result.steps, result.warnings) == ({}, 10, 10, ())
    assert torch.equal(weights(tmp_path / "run/best"), weights(tmp_path / "run/last"))
    assert {line["kind"] for line in read_log(tmp_path / "run/log.jsonl")} == {"step"}
    # It learns what it would with dev, and is not repeated.
    measured = into(config, tmp_path / "measured")
    train_linear(measured)
    assert torch.equal(weights(tmp_path / "run/last"), weights(tmp_path / "measured/last"))
    assert train_linear(config, resume=True, objective=LinearObjective(config.run, measures=False)) == result


def test_without_dev_a_resume_is_exact_and_best_comes_at_the_end(tmp_path):
    config = linear_config(tmp_path / "whole", checkpoint_every=4)
    train_linear(config, objective=LinearObjective(config.run, measures=False))
    halves = into(config, tmp_path / "halves")
    train_linear_until(6, halves, objective=LinearObjective(config.run, measures=False))
    assert not (tmp_path / "halves/best").exists()
    result = train_linear(halves, resume=True, objective=LinearObjective(config.run, measures=False))
    assert (result.best_step, result.stopped) == (10, "finished")
    assert torch.equal(weights(tmp_path / "whole/best"), weights(tmp_path / "halves/best"))
