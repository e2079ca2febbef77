"""The models and indexes that are served, by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

from relsdk.bundle.model import RELSDK_JSON
from relsdk.errors import EncoderMismatchError, IndexFolderError, InputError, RelsdkError, StoreError
from relsdk.index import MODES, Index, IndexInfo
from relsdk.index.opening import open_index
from relsdk.index.store import Store, StoreInfo
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.cross_encoder import CrossEncoder
from relsdk.models.embedder import Embedder
from relsdk.models.open import open_pair_model
from relsdk.models.pooled_scorer import PooledScorer
from relsdk.models.relevance_scorer import RelevanceScorer
from relsdk.search.opening import open_encoder
from relsdk.search.searcher import Searcher
from relsdk.search.store_reader import StoreReader
from relsdk_serve._bodies import FieldCard, IndexCard, ModelCard, PromiseBody
from relsdk_serve._faults import NotFoundError
from relsdk_serve._settings import Settings

__all__ = ["Catalogue", "Model", "ServedIndex", "open_catalogue"]

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Model:
    """An encoder or a scorer.

    Attributes:
        name: What requests call it.
        embedder: The encoder; None for a scorer.
        cross_encoder: The scorer; None for an encoder.
    """

    name: str
    embedder: Embedder | None = None
    cross_encoder: CrossEncoder | None = None

    @property
    def pair_model(self) -> BiEncoder | CrossEncoder:
        """What grades pairs alone."""
        if self.cross_encoder is not None:
            return self.cross_encoder
        return BiEncoder(self.encoder)

    @property
    def encoder(self) -> Embedder:
        """The encoder.

        Raises:
            InputError: It is a scorer.
        """
        if self.embedder is None:
            raise InputError(f"the model {self.name!r} is a scorer; an encoder is needed")
        return self.embedder

    def card(self) -> ModelCard:
        """Return what is told of it."""
        pair_model = self.pair_model
        promises = pair_model.variant.promises_of(pair_model.calibration_key)
        return ModelCard(
            id=self.name,
            kind="scorer" if self.embedder is None else "encoder",
            dimension=None if self.embedder is None else self.embedder.dimension,
            max_tokens=pair_model.bundle.settings.max_tokens,
            variant=pair_model.variant.name,
            fingerprint=pair_model.bundle.fingerprint,
            levels=pair_model.is_calibrated,
            promises=[PromiseBody(**one.to_dict()) for one in promises],
        )


@dataclass(eq=False)
class ServedIndex:
    """An index with the searchers that answer from it.

    Attributes:
        name: What requests call it.
        model: The encoder that built it.
        index: The documents.
        scorer: The scorer that a search takes unless it says otherwise; None for none.
        searchers: By name of the scorer; None is without one.
    """

    name: str
    model: Model
    index: Index | StoreReader
    scorer: str | None
    searchers: Mapping[str | None, Searcher] = field(default_factory=dict)
    _fields: tuple[str, list[FieldCard]] = ("", [])
    _counted: int = 0  # documents of a store, when it last answered

    def searcher(self, scorer: bool | str | None) -> tuple[str | None, Searcher]:
        """Return a searcher and the name of its scorer.

        Args:
            scorer: A name, True for the one there is, False for none, None for what the server was told.

        Raises:
            InputError: There is no such scorer.
        """
        names = [name for name in self.searchers if name is not None]
        if scorer is None or (scorer is True and self.scorer is not None):
            name = self.scorer
        elif scorer is False:
            name = None
        elif scorer is True:
            if not names:
                raise InputError("scorer is true, and this server has none; start it with --scorer BUNDLE")
            name = names[0]
        else:
            name = scorer
            if name not in names:
                known = f"this server has {', '.join(names) or 'none'}"
                raise InputError(f"there is no scorer {name!r}; {known}")
        return name, self.searchers[name]

    def card(self) -> IndexCard:
        """Return what is told of it."""
        now = self.index.snapshot()
        if isinstance(now, StoreReader):
            return self._store_card(now)
        info = now.info()
        hybrid = now.hybrid_models.get(self.model.encoder.variant.name)
        if self._fields[0] != info.generation:
            fields = [FieldCard(name=name, kinds=list(kinds)) for name, kinds in now.fields().items()]
            self._fields = (info.generation, fields)
        return IndexCard(
            name=self.name,
            model=self.model.name,
            scorer=self.scorer,
            documents=info.count,
            generation=info.generation,
            lexical=info.analyser is not None,
            levels=self.model.encoder.is_calibrated or bool(info.hybrid),
            promises=[] if hybrid is None else [PromiseBody(**one.to_dict()) for one in hybrid.promises],
            modes=list(MODES) if info.analyser is not None else ["dense"],
            scorers=[name for name in self.searchers if name is not None],
            fields=self._fields[1],
            writable=True,
        )

    def _store_card(self, store: StoreReader) -> IndexCard:
        # A store that does not answer takes nothing from what is told of all the others.
        with suppress(StoreError, IndexFolderError):
            self._counted = store.count()
        return IndexCard(
            name=self.name,
            model=self.model.name,
            scorer=self.scorer,
            documents=self._counted,
            generation=store.generation,
            lexical=False,
            levels=self.model.encoder.is_calibrated,
            promises=[],
            modes=["dense"],
            scorers=[name for name in self.searchers if name is not None],
            fields=[],
            writable=True,
        )


@dataclass(eq=False)
class Catalogue:
    """All that is served; the first of a kind answers requests that name none."""

    models: dict[str, Model] = field(default_factory=dict)
    indexes: dict[str, ServedIndex] = field(default_factory=dict)

    def model(self, name: str | None, kind: str | None = None) -> Model:
        """Return a model.

        Args:
            name: Its name; None takes the first of the kind.
            kind: "encoder", "scorer", or None for either, a scorer first.

        Raises:
            NotFoundError: There is none of this name.
            InputError: It is of another kind, or there is none of the kind.
        """
        if name is not None:
            model = _named(self.models, name, "model")
            if kind == "encoder":
                _ = model.encoder
            return model
        for wanted in ("scorer", "encoder") if kind is None else (kind,):
            for model in self.models.values():
                if (model.embedder is None) == (wanted == "scorer"):
                    return model
        raise InputError(f"this server has no {kind or 'model'}; start it with --model BUNDLE")

    def index(self, name: str | None, model: str | None = None) -> ServedIndex:
        """Return an index: by its name, or the one that a model built.

        Raises:
            NotFoundError: There is none.
            InputError: A model built several.
        """
        if not self.indexes:
            raise NotFoundError("this server has no index; start it with: relsdk serve INDEX")
        if name is not None:
            found = _named(self.indexes, name, "index")
            if model is not None and found.model is not _named(self.models, model, "model"):
                raise InputError(f"the index {name!r} was built by {found.model.name!r}, not by {model!r}")
            return found
        if model is None:
            return next(iter(self.indexes.values()))
        wanted = _named(self.models, model, "model")
        built = [index for index in self.indexes.values() if index.model is wanted]
        if not built:
            names = ", ".join(f"{index.name} ({index.model.name})" for index in self.indexes.values())
            raise InputError(f"no index here was built by the model {model!r}; the indexes are {names}")
        if len(built) > 1:
            names = ", ".join(index.name for index in built)
            raise InputError(f"the model {model!r} built several indexes; choose one as index: {names}")
        return built[0]

    def conceal(self, message: str) -> str:
        """Return a message with the names of indexes and models instead of their folders."""
        for index in self.indexes.values():
            message = message.replace(str(index.index.path), index.name)
        for model in self.models.values():
            message = message.replace(str(model.pair_model.bundle.path), model.name)
        return message


def _named(items: Mapping[str, Item], name: str, what: str) -> Item:
    if name not in items:
        known = f"this server has {', '.join(items) or 'none'}"
        raise NotFoundError(f"there is no {what} {name!r}; {known}")
    return items[name]


def open_catalogue(settings: Settings) -> Catalogue:
    """Open all models and indexes; each model runs on one thread, since workers run beside each other.

    Raises:
        BundleError: A model is damaged, or an index's own is not found.
        IndexFolderError: An index is damaged.
        EncoderMismatchError: An index was built by none of the models.
        InputError: A scorer is an encoder.
    """
    catalogue = Catalogue()
    for name, bundle in settings.models.items():
        catalogue.models[name] = _open_model(name, bundle, settings)
    for name, bundle in settings.scorers.items():
        model = _open_model(name, bundle, settings)
        if model.cross_encoder is None:
            raise InputError(f"--scorer {bundle} is an encoder; name a scorer bundle")
        catalogue.models[name] = model
    for name, path in settings.indexes.items():
        catalogue.indexes[name] = _open_index(name, path, catalogue, settings)
    return catalogue


def _open_model(name: str, bundle: str, settings: Settings) -> Model:
    model = open_pair_model(bundle, variant=settings.variant, threads=1)
    if isinstance(model, CrossEncoder):
        return Model(name, cross_encoder=model)
    cached = Embedder(
        model.embedder.path, variant=settings.variant, threads=1, query_cache=settings.query_cache
    )
    return Model(name, embedder=cached)


def _open_index(name: str, path: str, catalogue: Catalogue, settings: Settings) -> ServedIndex:
    index = _open_place(path)
    model = _builder(index, catalogue, settings)
    scorers: dict[str | None, RelevanceScorer | None] = {None: None}
    for other in catalogue.models.values():
        if other.cross_encoder is not None:
            both = PooledScorer(other.cross_encoder, model.encoder)
            scorers[other.name] = RelevanceScorer(both if both.is_calibrated else other.cross_encoder)
    searchers = {scorer: Searcher(model.encoder, index, opened) for scorer, opened in scorers.items()}
    default = next(iter(settings.scorers), None)
    return ServedIndex(name, model, searchers[None].reader, default, searchers)


def _open_place(path: str) -> Index | Store:
    try:
        return open_index(path)
    except IndexFolderError:
        if Path(path, RELSDK_JSON).is_file():
            raise InputError(
                f"{path} is a model, not an index; serve it alone with: relsdk serve --model {path}"
            ) from None
        raise


def _builder(index: Index | Store, catalogue: Catalogue, settings: Settings) -> Model:
    """Return the model that built an index: of those that are served, or the one whose place it noted.

    Copies of a model may be calibrated by other pairs, for other documents: levels and promises are those of
    the copy that the index noted, if it is there, and not those of the first one.
    """
    info = index.info()
    alike = [
        model
        for model in catalogue.models.values()
        if model.embedder is not None and model.embedder.fingerprint == info.encoder_fingerprint
    ]
    noted = _noted_folder(info, settings) if alike else None
    own = [model for model in alike if noted is not None and _is_at(model, noted)]
    named = [model for model in alike if model.name in settings.models]
    copies = own or named or (alike if noted is None else [])
    for model in copies:
        if model.encoder.dimension == info.dimension:
            return model
    if not alike and any(model.embedder is not None for model in catalogue.models.values()):
        names = ", ".join(name for name, model in catalogue.models.items() if model.embedder is not None)
        raise EncoderMismatchError(
            f"{info.path} was built by {info.encoder_name} (fingerprint {info.encoder_fingerprint}), and "
            f"none of the models is that one ({names}); add it with --model"
        )
    place = str(copies[0].encoder.path) if copies else None
    found = open_encoder(info, place, settings.variant, 1)
    embedder = Embedder(
        found.path,
        variant=settings.variant,
        threads=1,
        truncate_dim=found.dimension,
        query_cache=settings.query_cache,
    )
    name = _free_name(found.path.name or found.name, embedder.dimension, catalogue)
    model = Model(name, embedder=embedder)
    catalogue.models[name] = model
    return model


def _noted_folder(info: IndexInfo | StoreInfo, settings: Settings) -> Path | None:
    """Return where the bundle of an index is, by what it noted; None where it is no longer there."""
    try:
        return open_encoder(info, None, settings.variant, 1).path
    except RelsdkError:  # or it lacks the variant
        return None


def _is_at(model: Model, folder: Path) -> bool:
    return os.path.realpath(model.encoder.path) == os.path.realpath(folder)


def _free_name(name: str, dimension: int, catalogue: Catalogue) -> str:
    """Return the name of a folder, or one like it that no model has."""
    names = chain([name, f"{name}-{dimension}"], (f"{name}-{dimension}-{number}" for number in count(2)))
    return next(one for one in names if one not in catalogue.models)
