"""Checks of arguments that callers get wrong: each says what was given and what is needed.

Shape letters: Q queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relsdk.calibration import HybridLink
from relsdk.errors import InputError
from relsdk.index.analysis import Analyser, CjkAnalyser
from relsdk.index.base import Encoder, IndexConfig

__all__ = [
    "check_analyser",
    "check_config",
    "check_encoder_parts",
    "check_ids",
    "check_models",
    "check_texts",
    "chosen_analyser",
    "is_analyser",
    "tokens_of",
]

_ENCODER_PARTS = ("name", "fingerprint", "dimension", "encode_document")


def check_ids(ids: Sequence[str]) -> list[str]:
    """Return ids as a list.

    Raises:
        InputError: They are no list of texts.
    """
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        what = f"the text {ids!r}" if isinstance(ids, str) else f"a {type(ids).__name__}"
        raise InputError(f"ids is {what}; pass a list of ids")
    wanted = list(ids)
    for identifier in wanted:
        if not isinstance(identifier, str):
            raise InputError(f"id {identifier!r} is a {type(identifier).__name__}; ids are text")
    return wanted


def check_texts(texts: Sequence[str], count: int) -> list[str]:
    """Return Q queries as a list.

    Raises:
        InputError: They are no list of so many texts.
    """
    listed = isinstance(texts, Sequence) and not isinstance(texts, str | bytes)
    if not listed or len(texts) != count:
        raise InputError(f"there are {count} vectors; as many texts are needed, in a list")
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"a query is a {type(text).__name__}; text is needed")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("a query holds half of a surrogate pair; remove it") from None
    return list(texts)


def check_encoder_parts(encoder: Encoder) -> None:
    """Refuse what is no encoder.

    Raises:
        InputError: It has not all that an encoder has.
    """
    missing = [name for name in _ENCODER_PARTS if not hasattr(encoder, name)]
    if missing:
        raise InputError(
            f"the encoder is a {type(encoder).__name__} without {missing[0]!r}; an Embedder is needed, or an "
            f"object with {', '.join(_ENCODER_PARTS)}"
        )


def check_config(config: IndexConfig | None) -> IndexConfig:
    """Return the settings, those that are usual for None.

    Raises:
        InputError: They are something else.
    """
    if config is not None and not isinstance(config, IndexConfig):
        raise InputError(f"config is a {type(config).__name__}; an IndexConfig is needed")
    return config or IndexConfig()


def is_analyser(analyser: object) -> bool:
    """Tell whether an object has what an analyser has."""
    name, version = getattr(analyser, "name", None), getattr(analyser, "version", None)
    named = isinstance(name, str) and isinstance(version, int) and not isinstance(version, bool)
    return named and callable(getattr(analyser, "tokens", None)) and not isinstance(analyser, type)


def check_analyser(analyser: Analyser | None) -> Analyser:
    """Return the analyser, relsdk's own for None.

    Raises:
        InputError: It is something else.
    """
    if analyser is not None and not is_analyser(analyser):
        raise InputError(
            f"the analyser is {analyser!r:.80}; an object with a name (text), a version (a whole number) and "
            f"a method tokens is needed"
        )
    return analyser or CjkAnalyser()


def chosen_analyser(lexical: bool | Analyser) -> Analyser | None:
    """Return the analyser that `lexical` of `Index.build` means, None for no words.

    Raises:
        InputError: It is neither a boolean nor an analyser.
    """
    if isinstance(lexical, bool):
        return CjkAnalyser() if lexical else None
    if not is_analyser(lexical):
        raise InputError(
            f"lexical={lexical!r:.80}; True, False or an analyser is needed: an object with a name (text), a "
            f"version (a whole number) and a method tokens"
        )
    return lexical


def tokens_of(analyser: Analyser, text: str) -> list[str]:
    """Return the tokens of a text; what an analyser of the caller's own returns is looked at.

    Raises:
        InputError: They are no texts.
    """
    tokens: Any = analyser.tokens(text)
    if type(analyser) is CjkAnalyser:
        return tokens  # type: ignore[no-any-return]
    if isinstance(tokens, str | bytes) or not isinstance(tokens, Iterable):
        raise InputError(
            f"the analyser {analyser.name} returned a {type(tokens).__name__}; a list of tokens is needed"
        )
    listed = list(tokens)
    wrong = [token for token in listed if not isinstance(token, str)]
    if wrong:
        raise InputError(
            f"the analyser {analyser.name} returned the token {wrong[0]!r:.80}, a {type(wrong[0]).__name__}; "
            f"tokens are text"
        )
    return listed


def check_models(models: Mapping[str, HybridLink]) -> dict[str, HybridLink]:
    """Return models of cosine and words by variant.

    Raises:
        InputError: They are something else.
    """
    known: Any = models
    if not isinstance(known, Mapping) or not known:
        raise InputError(f"models is {known!r:.80}; a mapping of variants to models is needed")
    for variant, model in known.items():
        if not isinstance(variant, str) or not variant.strip() or not isinstance(model, HybridLink):
            raise InputError(
                f"models has {variant!r:.80}: {type(model).__name__}; the name of a variant and a HybridLink "
                f"are needed"
            )
    return dict(known)
