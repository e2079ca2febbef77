from dataclasses import asdict
from pathlib import Path

import pytest

from relsdk.errors import InputError
from relsdk_training.config.files import RECIPES, config_from_dict, describe_config, load_config
from relsdk_training.config.settings import EmbedConfig, ScoreConfig


def test_a_file_then_overrides_then_the_rest_is_default(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", "/data")
    path = tmp_path / "c.toml"
    path.write_text('[run]\nseed = 3\nbatch_size = 16\n[data]\ntrain = "$WHERE/train.jsonl"\n')
    config = load_config(
        EmbedConfig,
        path,
        ["run.seed=4", "loss.matryoshka_dims=[32, 64]", "loss.temperature=1", "data.dev=dev.jsonl"],
    )
    assert (config.run.seed, config.run.batch_size, config.run.epochs) == (4, 16, 1)
    assert config.loss.matryoshka_dims == (32, 64)
    assert isinstance(config.loss.temperature, float)
    assert (config.data.train, config.data.dev) == ("/data/train.jsonl", "dev.jsonl")
    assert config.model.query_prompt is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.temperatur=1", r"unknown key 'temperatur'; did you mean 'temperature'\?"),
        ("los.temperature=1", r"unknown key 'los'; did you mean 'loss'\?"),
        ("seed=1", r"section\.key=value is needed"),
        ("run.seed", r"section\.key=value is needed"),
        ("run.seed=abc", "seed = 'abc': Expected `int`"),
        ("run.seed=1.5", "seed = 1.5: Expected `int`"),
        ("run.group=1", "group = 1: Expected `bool`"),
        ("run.seed=true", "seed = True: Expected `int`"),
        ("run.precision=fp8", "allowed are 'auto', 'bf16', 'fp32'"),
        ("run.epochs=-1", "0 or more"),
        ("loss.matryoshka_dims=32", "matryoshka_dims = 32: Expected `array`"),
        ("loss.matryoshka_dims=['a']", r"matryoshka_dims\[0\] = 'a': Expected `int`"),
    ],
)
def test_mistakes_name_the_key_and_what_is_allowed(override, message):
    with pytest.raises(InputError, match=message):
        load_config(EmbedConfig, None, [override])


@pytest.mark.parametrize(
    ("typed", "prompt"), [("query: ", "query: "), ("'query: '", "query: "), ('"q"', "q"), ("", "")]
)
def test_a_prompt_is_what_was_typed(typed, prompt):
    config = load_config(EmbedConfig, None, [f"model.query_prompt={typed}"])
    assert config.model.query_prompt == prompt


def test_a_bare_name_is_a_recipe_unless_the_folder_has_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = load_config(EmbedConfig, Path("embed.toml"))
    assert own == load_config(EmbedConfig, RECIPES / "embed.toml") != EmbedConfig()
    (tmp_path / "embed.toml").write_text("[run]\nepochs = 7\n")
    assert load_config(EmbedConfig, Path("embed.toml")).run.epochs == 7
    with pytest.raises(InputError, match=r"embd\.toml.*relsdk's own are .*embed\.toml"):
        load_config(EmbedConfig, Path("embd.toml"))
    with pytest.raises(InputError, match="not a readable"):
        load_config(EmbedConfig, tmp_path / "sub/score.toml")


def test_a_file_that_is_wrong_is_named(tmp_path):
    path = tmp_path / "c.toml"
    for text, message in (
        ("[run\n", "not a readable TOML"),
        ("run = 3\n", r"\[run\] is needed"),
        ("[loss]\ninfo_nce = 1\n", "unknown key 'loss'"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"c\.toml.*{message}"):
            load_config(ScoreConfig, path)
    with pytest.raises(InputError, match="not a readable"):
        load_config(ScoreConfig, tmp_path / "none.toml")


def test_what_is_not_default_is_marked():
    lines = describe_config(load_config(ScoreConfig, None, ["run.seed=1", "run.batch_size=32"])).splitlines()
    assert "* seed = 1" in lines
    assert "  batch_size = 32" in lines  # a score model's own default
    assert "  epochs = 1" in lines


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.learning_rate=-1", "0 or more"),  # as a whole number, too
        ("optimiser.learning_rate=nan", "a number is needed"),
        ("loss.mask_margin=nan", "a number is needed"),
        ("loss.max_ratio=inf", "a number is needed"),
        ("optimiser.warmup=2", "optimiser.warmup=2.0; 0 to 1"),
        ("optimiser.max_grad_norm=0", "above 0"),
        ("run.accumulation=0", "run.accumulation=0; at least 1"),
        ("run.batch_size=0", "run.batch_size=0; at least 1"),
        ("run.repeat=0.5", "run.repeat=0.5; 1 to 1000"),
        ("run.seed=99999999999999999999", "run.seed"),
        pytest.param("run.seed=" + "9" * 400, "0 to 4294967295 is needed", id="400 digits"),
        pytest.param("run.seed=" + "9" * 5000, "Expected `int`, got `str`", id="5000 digits"),
        pytest.param("loss.max_ratio=0x" + "f" * 5000, "Number out of range", id="hexadecimal"),
        ("run.threads=100000", "run.threads=100000; 0 to 1024"),
        ("run.epochs=0", "train nothing"),
        ("model.max_tokens=3", "model.max_tokens=3; at least 4"),
    ],
)
def test_values_out_of_range(override, message):
    with pytest.raises(InputError, match=message):
        load_config(EmbedConfig, None, [override])


def test_the_name_of_a_file_allows_nothing(tmp_path):
    path = tmp_path / "margin.toml"
    path.write_text("[optimiser]\nlearning_rate = -1.0\n")
    with pytest.raises(InputError, match="0 or more"):
        load_config(EmbedConfig, path)
    assert load_config(EmbedConfig, None, ["loss.mask_margin=-1"]).loss.mask_margin == -1


def test_a_byte_order_mark(tmp_path):
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf[run]\r\nseed = 3\r\n")
    assert load_config(EmbedConfig, path).run.seed == 3


def test_json_and_back():
    config = load_config(EmbedConfig, None, ["loss.matryoshka_dims=[8]", "model.query_prompt='q: '"])
    assert config_from_dict(EmbedConfig, asdict(config), "config.json") == config
