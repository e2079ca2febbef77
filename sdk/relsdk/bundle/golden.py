"""Golden vectors: a few texts with the vectors that each variant gave when the bundle was made.

Shape letters: N texts, D dimension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle.layout import EncoderSettings, read_json
from relsdk.errors import BundleError

__all__ = ["GOLDEN_TEXTS", "GoldenVectors", "read_golden", "write_golden"]

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


@dataclass(frozen=True, slots=True)
class GoldenVectors:
    """What a bundle's encoder gave when it was made.

    Attributes:
        texts: N pairs of a prompt's name ("" for none) and a text.
        vectors: (N, D) float32 by the variant's name, rounded to 6 digits.
        settings: The encoder's settings at that time, in their JSON form.
    """

    texts: tuple[tuple[str, str], ...]
    vectors: Mapping[str, NDArray[np.float32]]
    settings: Mapping[str, object]


def write_golden(folder: Path, settings: EncoderSettings, vectors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the vectors of `GOLDEN_TEXTS`, (N, D) by variant, into a bundle being made."""
    content = {
        "texts": GOLDEN_TEXTS,
        "settings": asdict(settings),
        "vectors": {
            name: [[round(float(value), _DIGITS) for value in row] for row in rows]
            for name, rows in vectors.items()
        },
    }
    (folder / GOLDEN_JSON).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def read_golden(folder: Path) -> GoldenVectors:
    """Read a bundle's golden vectors.

    Raises:
        BundleError: There are none, or the file is damaged.
    """
    path = folder / GOLDEN_JSON
    if not path.is_file():
        raise BundleError(f"{folder} has no golden vectors ({GOLDEN_JSON}); export the bundle again")
    content = read_json(path)
    try:
        texts = tuple((str(prompt), str(text)) for prompt, text in content["texts"])
        vectors = {str(name): np.asarray(rows, dtype=np.float32) for name, rows in content["vectors"].items()}
        golden = GoldenVectors(texts, vectors, dict(content["settings"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is damaged ({error}); export the bundle again") from error
    if not texts or any(rows.ndim != 2 or len(rows) != len(texts) for rows in vectors.values()):
        raise BundleError(f"{path} is damaged (number of vectors); export the bundle again")
    return golden
