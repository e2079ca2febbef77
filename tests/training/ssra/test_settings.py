"""The settings of `relsdk train ssra`: few, shared by the models of a run, and those of older files named."""

import json
from copy import deepcopy
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest

from relsdk.errors import InputError
from relsdk_training.config import settings, ssra
from relsdk_training.config.files import RECIPES, config_from_dict, describe_config, load_config
from relsdk_training.config.ssra import SsraConfig, embed_training, query_training, score_training

# Made by the code before the models shared settings.
BEFORE = json.loads(Path(__file__).with_name("before_the_table.json").read_text(encoding="utf-8"))
RESOLVE = {"score": score_training, "query": query_training, "embed": embed_training}
MOST = 72
# Newer than the results, which they do not change where they say nothing.
NEWER = {
    "data": {"weak": [], "written": [], "weak_weight": 1.0, "written_weight": 1.0, "human_last": 0.0},
    "loss": {"wasserstein": 0.0},
}


def leaves(config, path=""):
    """Each setting's path, and the class that says what it means: settings of one class are one to learn."""
    for setting in fields(config):
        value = getattr(config, setting.name)
        if is_dataclass(value):
            yield from leaves(value, f"{path}{setting.name}.")
        else:
            kinds = [k for k in type(config).__mro__ if setting.name in getattr(k, "__annotations__", {})]
            yield f"{path}{setting.name}", f"{kinds[-1].__name__}.{setting.name}"


def without_newer(config):
    """Return settings as JSON, without those of `NEWER`, which must be at their defaults."""
    content = json.loads(json.dumps(asdict(config)))
    for section, newer in NEWER.items():
        for name, value in newer.items():
            assert content.get(section, {}).pop(name, value) == value
    return content


def test_settings_are_few():
    """There were 169, 102 of them distinct."""
    distinct = {meaning for _, meaning in leaves(SsraConfig())}
    assert len(BEFORE["leaves"]) == 169
    assert 55 <= len(distinct) <= MOST
    assert len(list(leaves(SsraConfig()))) < 117


def test_every_setting_is_explained():
    for _, meaning in leaves(SsraConfig()):
        kind, _, name = meaning.partition(".")
        of_kind = getattr(ssra, kind, None) or getattr(settings, kind)
        assert f"        {name}: " in of_kind.__doc__, meaning


@pytest.mark.parametrize(("name", "path"), [("recipe", RECIPES / "ssra.toml"), ("defaults", None)])
def test_effective_settings_are_those_of_before(name, path):
    """So the results that are committed are those of the recipe of today."""
    config, before = load_config(SsraConfig, path), deepcopy(BEFORE[name])
    for model, resolve in RESOLVE.items():
        resolved = without_newer(resolve(config))
        del resolved["run"]["timeout"]  # newer than those, and changes no result
        assert resolved == before[model]
    now = without_newer(config)
    for section in ("data", "candidates", "balance", "run"):
        assert now[section] == before[section]
    for section, prefix in (("filter", "judge"), ("synthesis", "endpoint")):
        endpoint = now[section].pop("endpoint")
        for newer in ("record", "replay", "rubric"):
            assert endpoint.pop(newer) == ""
        assert endpoint.pop("at_once") == 4  # newer; it changes no result
        now[section] |= {f"{prefix}_{key}": value for key, value in endpoint.items()}
        assert before[section].pop("judge_share", 0.7) == 0.7
        assert now[section] == before[section]
    before["pool"]["pairs"] = before["pool"].pop("unlabelled")
    assert now["unlabelled"] == before["pool"]


def test_training_is_for_all_models_and_a_section_takes_precedence():
    config = load_config(
        SsraConfig, None, ["training.learning_rate=1e-3", "query.learning_rate=2e-3", "training.warmup=0.2"]
    )
    models = {name: resolve(config) for name, resolve in RESOLVE.items()}
    rates = {name: model.optimiser.learning_rate for name, model in models.items()}
    assert rates == {"score": 1e-3, "query": 2e-3, "embed": 1e-3}
    assert {model.optimiser.warmup for model in models.values()} == {0.2}
    assert models["embed"].run.batch_size == 64  # as in relsdk train embed
    with pytest.raises(InputError, match=r"\[score\]: model.max_tokens=3; at least 4"):
        score_training(load_config(SsraConfig, None, ["score.max_tokens=3"]))


@pytest.mark.parametrize("path", BEFORE["leaves"])
def test_a_setting_of_before_is_there_or_its_successor_is_named(path):
    today = {leaf for leaf, _ in leaves(SsraConfig())}
    if path in today:
        assert path not in SsraConfig.REPLACED
        return
    with pytest.raises(InputError) as error:
        load_config(SsraConfig, None, [f"{path}=1"])
    told = str(error.value)
    assert told.startswith(f"--set {path}=1: {path} ")
    if " is now " in told:
        assert told.partition(" is now ")[2].partition(",")[0] in today
    else:
        assert " was removed: " in told


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("pool.unlabelled=['a']", "pool.unlabelled is now unlabelled.pairs"),
        (
            "score.model.checkpoint=a",
            "score.model.checkpoint is now score.checkpoint, or training.checkpoint for all models",
        ),
        ("synthesis.endpoint_url=a", "synthesis.endpoint_url is now synthesis.endpoint.url"),
        ("query.model.top_p=0.9", "query.model.top_p was removed: it is always 0.95"),
        ("embed.loss.ordinal=1", "relsdk train embed has it, for RUN/stages/90-balance/pairs.jsonl"),
        ("score.teacher.weight=1", "it is for relsdk train score, whose model filter.checkpoint takes"),
        ("embed.run.seed=1", "it is that of the whole run, run.seed"),
    ],
)
def test_successors(setting, told):
    with pytest.raises(InputError) as error:
        load_config(SsraConfig, None, [setting])
    assert told in str(error.value)


def test_a_file_of_before_is_told_all_at_once(tmp_path):
    path = tmp_path / "ssra.toml"
    path.write_text("[pool]\ndocuments = ['docs.jsonl']\n[query.optimiser]\nlearning_rate = 5e-4\n")
    with pytest.raises(InputError) as error:
        load_config(SsraConfig, path)
    assert str(error.value).startswith(
        f"{path}: pool.documents is now unlabelled.documents; query.optimiser."
    )
    with pytest.raises(
        InputError, match=r"pool\.documents is now"
    ):  # the settings that an older run recorded
        config_from_dict(SsraConfig, BEFORE["recipe"], "row")


def test_what_is_not_said_is_not_shown():
    lines = describe_config(load_config(SsraConfig, None, ["score.epochs=2"])).splitlines()
    section = lines[lines.index("[score]") :][:3]
    assert section == ["[score]", "* epochs = 2", "  head = 'categorical'"]
    assert "[synthesis.endpoint]" in lines
    assert "[training]" not in lines
