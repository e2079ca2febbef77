"""Does a bundle give its checkpoint's vectors? Checked through the real SDK, before the bundle moves.

Shape letters: N texts, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from relsdk.embedder import Embedder
from relsdk.errors import QualityError
from relsdk_export.convert import SentenceEncoder

__all__ = ["PARITY_TEXTS", "ParityReport", "check_parity", "torch_vectors"]

_SENTENCES = (
    "大宅门演员表",
    "红烧肉怎么做才不腻？家常做法，一看就会",
    "iPhone 手机黑屏打不开怎么办",
    "How to make sourdough bread at home, step by step",
    "臺灣夜市必吃的十種小吃，第三種最多人排隊",
    "12306 火车票 🚄 抢票攻略！！！",
    "三个月宝宝一天睡多少个小时正常；夜里总醒是不是缺钙",
    "Ça coûte combien, un café à Paris ? Très cher…",
    "大家好，今天给大家分享一个特别简单的健身动作，每天十分钟，坚持一个月就能看到变化。",
    "①②③ ＡＢＣ　全角　空格 ½ ﷺ",
)
# One text of each length from empty to far beyond the usual limit of 512 tokens.
PARITY_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "的",
    "😀",
    *_SENTENCES,
    *(
        "，".join((_SENTENCES * 12)[start : start + count])
        for start, count in enumerate((2, 3, 5, 8, 13, 21, 34, 60))
    ),
)


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Cosines between the bundle's vectors and the checkpoint's.

    Attributes:
        texts: How many texts were compared.
        mean_cosine: Their mean.
        min_cosine: The worst.
    """

    texts: int
    mean_cosine: float
    min_cosine: float

    def to_dict(self) -> dict[str, float]:
        """Return a JSON form."""
        return asdict(self)


def torch_vectors(
    model: SentenceEncoder, tokenizer_folder: Path, texts: Sequence[str]
) -> NDArray[np.float32]:
    """Encode texts one by one with torch and transformers' own tokenizer.

    Args:
        model: The checkpoint.
        tokenizer_folder: Where its tokenizer is.
        texts: N texts, prompts included.

    Returns:
        (N, D) float32.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    limit = min(tokenizer.model_max_length, model.max_tokens)
    vectors = []
    with torch.inference_mode():
        for text in texts:
            tokens = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
            _, vector = model(tokens["input_ids"], tokens["attention_mask"])
            vectors.append(vector[0].numpy())
    return np.stack(vectors)


def check_parity(
    embedder: Embedder,
    texts: Sequence[str],
    expected: NDArray[np.float32],
    *,
    min_cosine: float,
    mean_cosine: float,
) -> ParityReport:
    """Compare a bundle's vectors with the checkpoint's.

    Args:
        embedder: The bundle, open.
        texts: N texts, prompts included.
        expected: (N, D) vectors of the checkpoint.
        min_cosine: Budget for the worst text.
        mean_cosine: Budget for the mean.

    Raises:
        QualityError: A budget is exceeded; the message says by how much and on which text.
    """
    got = embedder.encode(list(texts), truncation="silent")  # (N, D)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.einsum("nd,nd->n", got, expected) / np.maximum(norms, 1e-12)
    report = ParityReport(len(texts), float(cosines.mean()), float(cosines.min()))
    name = embedder.variant.name
    if not np.isfinite(cosines).all():
        raise QualityError(
            f"{name}: {int((~np.isfinite(cosines)).sum())} of {len(texts)} vectors are not finite"
        )
    if report.min_cosine < min_cosine or report.mean_cosine < mean_cosine:
        worst = texts[int(cosines.argmin())][:40]
        raise QualityError(
            f"{name} does not reproduce the checkpoint: cosine min {report.min_cosine:.5f} (budget "
            f"{min_cosine}), mean {report.mean_cosine:.5f} (budget {mean_cosine}), worst on {worst!r}; "
            "nothing was written"
        )
    return report
