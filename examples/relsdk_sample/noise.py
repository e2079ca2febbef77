"""Noise as of speech recognition and OCR: fillers, stutters, odd punctuation, look-alike characters."""

from __future__ import annotations

from relsdk_sample.draws import Draws

__all__ = ["degrade", "join_speech"]

FILLERS = ("嗯", "那个", "就是说", "然后呢", "对吧", "你们看啊", "呃")
SEPARATORS = ("，", "，", "，", "。", " ", " ", "！", "~", "…", ",")
LOOK_ALIKES = {
    "己": "已", "末": "未", "未": "末", "入": "人", "土": "士", "日": "曰", "大": "太", "天": "夭",
    "没": "设", "的": "旳", "话": "活", "看": "着", "多": "夕", "小": "少", "在": "再", "这": "文",
}  # fmt: skip


def join_speech(draws: Draws, sentences: list[str]) -> str:
    """Join sentences as a transcript does: mixed separators, fillers, now and then a stutter."""
    parts: list[str] = []
    for sentence in sentences:
        if draws.chance(0.25):
            parts.append(draws.pick(FILLERS))
        if draws.chance(0.08):
            parts.append(sentence[: draws.between(2, 4)])
        parts += [sentence, draws.pick(SEPARATORS)]
    return "".join(parts).strip()


def degrade(draws: Draws, text: str, rate: float = 0.04) -> str:
    """Replace some characters by look-alikes and lose very few, as OCR does.

    Args:
        draws: Source of chance.
        text: A clean text.
        rate: Chance that a character with a look-alike is replaced; a tenth of it for losing any character.

    Returns:
        The text, of about the same length.
    """
    kept: list[str] = []
    for character in text:
        if draws.chance(rate / 10):
            continue
        swap = character in LOOK_ALIKES and draws.chance(rate)
        kept.append(LOOK_ALIKES[character] if swap else character)
    return "".join(kept)
