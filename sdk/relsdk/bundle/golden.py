"""Golden vectors: a few inputs, and each variant's outputs for them when the bundle was made.

Shape letters: N inputs, D dimension of a vector, or outputs of a scorer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from relsdk.bundle._json_files import read_json
from relsdk.bundle.layout import EncoderSettings, ScorerSettings, settings_content
from relsdk.errors import BundleError

__all__ = [
    "GOLDEN_PAIRS",
    "GOLDEN_TEXTS",
    "GoldenVectors",
    "golden_inputs",
    "has_golden",
    "read_golden",
    "write_golden",
]

GOLDEN_JSON = "golden.json"
_DIGITS = 6
# (prompt name or "", text): short and long, both prompts and none, the empty text.
GOLDEN_TEXTS: tuple[tuple[str, str], ...] = (
    ("query", "大宅门演员表"),
    ("query", "How to make sourdough bread at home"),
    ("document", "红烧肉怎么做才不腻？家常做法，一看就会"),
    ("document", "iPhone 手机黑屏打不开怎么办 " * 12),
    ("", ""),
    ("", "臺灣夜市必吃的十種小吃"),
    ("", "大家好，今天给大家分享一个特别简单的健身动作，每天十分钟，坚持一个月就能看到变化。"),
    ("", "12306 🚄 Ça coûte combien ? " * 40),
)
# (query, document): relevant and not, short and far beyond the limit, two languages, empty.
GOLDEN_PAIRS: tuple[tuple[str, str], ...] = (
    ("大宅门演员表", "电视剧《大宅门》演员表：陈宝国、斯琴高娃、刘佩琦"),
    ("大宅门演员表", "红烧肉怎么做才不腻？家常做法，一看就会"),
    ("手机黑屏打不开怎么办", "iPhone 手机黑屏打不开怎么办 " * 60),
    ("How to make sourdough bread", "Sourdough bread at home, step by step"),
    ("臺灣夜市", "臺灣夜市必吃的十種小吃"),
    ("12306 🚄", "Ça coûte combien ?"),
    ("", ""),
)


_Coordinate = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]  # within float32
_Row = Annotated[list[_Coordinate], msgspec.Meta(min_length=1)]


class _Content(msgspec.Struct, frozen=True):
    texts: Annotated[tuple[tuple[str, str], ...], msgspec.Meta(min_length=1)]
    settings: dict[str, Any]
    vectors: dict[str, list[_Row]]


@dataclass(frozen=True, slots=True)
class GoldenVectors:
    """The outputs of a bundle when it was made.

    Attributes:
        texts: N pairs: a prompt's name ("" for none) and a text; of a scorer, a query and a document.
        vectors: (N, D) float32 by the variant's name, rounded to 6 digits.
        settings: The settings at that time, in their JSON form.
    """

    texts: tuple[tuple[str, str], ...]
    vectors: Mapping[str, NDArray[np.float32]]
    settings: Mapping[str, object]


def write_golden(
    folder: Path, settings: EncoderSettings | ScorerSettings, vectors: Mapping[str, NDArray[np.float32]]
) -> None:
    """Write the vectors of `golden_inputs`, (N, D) by variant, into a bundle being made."""
    content = {
        "texts": golden_inputs(settings),
        "settings": settings_content(settings),
        "vectors": {
            name: [[round(float(value), _DIGITS) for value in row] for row in rows]
            for name, rows in vectors.items()
        },
    }
    (folder / GOLDEN_JSON).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def golden_inputs(settings: EncoderSettings | ScorerSettings) -> tuple[tuple[str, str], ...]:
    """Return the inputs for an encoder or a scorer."""
    return GOLDEN_PAIRS if isinstance(settings, ScorerSettings) else GOLDEN_TEXTS


def has_golden(folder: Path) -> bool:
    """Whether a folder has golden vectors."""
    return (folder / GOLDEN_JSON).is_file()


def read_golden(folder: Path) -> GoldenVectors:
    """Read a bundle's golden vectors.

    Raises:
        BundleError: There are none, or the file is damaged.
    """
    path = folder / GOLDEN_JSON
    if not has_golden(folder):
        raise BundleError(f"{folder} has no golden vectors ({GOLDEN_JSON}); export the bundle again")
    content = read_json(path, _Content, remedy="export the bundle again")
    widths = {len(row) for rows in content.vectors.values() for row in rows}
    if len(widths) > 1 or any(len(rows) != len(content.texts) for rows in content.vectors.values()):
        raise BundleError(f"{path} is damaged (number of vectors); export the bundle again")
    vectors = {name: np.asarray(rows, dtype=np.float32) for name, rows in content.vectors.items()}
    return GoldenVectors(content.texts, vectors, content.settings)
