"""The tables of settings in docs/."""

from dataclasses import dataclass, fields

import pytest

from bench.pages.settings_page import meanings, ssra_settings, training_settings
from relsdk_training.config.settings import QueryDataConfig, RunConfig


def test_every_setting_has_a_row_with_its_default_and_meaning():
    page = training_settings()
    for field in fields(RunConfig):
        assert f"| `{field.name}` | " in page.partition("### [run]")[2]
    assert "| `batch_size` | embed: `64`; score and query: `32`; distill: `128` | Pairs a batch. |" in page
    assert "### [run]" not in training_settings().partition("### [run]")[2]


def test_a_meaning_is_inherited():
    assert meanings(QueryDataConfig)["train"].startswith("File of pairs to train on.")


def test_ssra_has_its_own_sections_alone():
    page = ssra_settings()
    assert "### [filter]" in page
    assert "### [filter.endpoint] and [synthesis.endpoint]" in page
    assert page.count("| `learning_rate` |") == 1  # in [training], for all models
    assert page.index("### [training]") < page.index("| `learning_rate` |") < page.index("### [score]")
    assert "| `rare_share` |" not in page


def test_a_setting_without_a_meaning_is_an_error():
    @dataclass
    class Silent:
        """Settings.

        Attributes:
            told: What it is.
        """

        told: int = 0
        untold: int = 0

    with pytest.raises(KeyError, match="Silent: no line under Attributes: for untold"):
        meanings(Silent)
