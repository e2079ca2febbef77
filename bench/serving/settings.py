"""Settings of the suites: models of the same weights, sizes, inputs, and the header of the result file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.interleave import Contender, Plan, yardstick
from bench.harness.machine import ROOT, machine_record
from bench.results_format.records import FORMAT, VERSION
from bench.serving.weights import Models, ctranslate2_folder, dynamic_file, inlined_file, unfused_folder
from relsdk import Embedder
from relsdk.bundle import read_bundle
from relsdk.runtime.tokenizer import TextTokenizer
from relsdk.runtime.variants import best_int8
from relsdk_sample import SampleWorld, generate

PROTOCOL = {
    "order": "blocks by turns, every second round in reverse",
    "warm-up": "the first calls of each block are not counted",
    "ratio": "median over rounds of the ratio of a round's medians, 95 % bootstrap interval",
    "noise": "the first contender runs twice in each case (A/A)",
    "yardstick": "fixed matrix products run as one more contender",
}


@dataclass
class Settings:
    """One run of the suites.

    Attributes:
        bundle: The encoder, as relsdk and fastembed load it.
        checkpoint: The same weights as sentence-transformers loads them; None when there are none.
        scorer: A cross-encoder's bundle; None makes one of the checkpoint with a random head.
        tower: An encoder's bundle with a query tower, whose queries are timed, too; None times none.
        small: Toy sizes.
        peers: Run the peers too.
        threads: Of every contender.
        temporary: A folder for this run.
        cache: A folder that later runs find again.
        absent: Peer -> why it could not run; filled as suites ask for peers.
        present: Peer -> version.
    """

    bundle: Path
    checkpoint: Path | None
    scorer: Path | None
    tower: Path | None
    small: bool
    peers: bool
    threads: int
    temporary: Path
    cache: Path
    absent: dict[str, str] = field(default_factory=dict)
    present: dict[str, str] = field(default_factory=dict)

    @cached_property
    def world(self) -> SampleWorld:
        """The sample corpus and its queries."""
        return generate(n_documents=300, n_queries=40) if self.small else generate()

    @cached_property
    def queries(self) -> list[str]:
        """Texts of the queries."""
        return [query.text for query in self.world.queries]

    @cached_property
    def int8(self) -> Embedder:
        """The int8 file that this CPU would load."""
        return Embedder(self.bundle, variant=self._best(), threads=self.threads)

    @cached_property
    def fp32(self) -> Embedder:
        """The fp32 file."""
        return Embedder(self.bundle, variant="fp32", threads=self.threads)

    @cached_property
    def models(self) -> Models:
        """The weights in every form that a peer takes."""
        models = Models(self.bundle, self.checkpoint, self.int8.variant.name)
        if not self.peers:
            return models
        fp32, int8 = (
            self.bundle / read_bundle(self.bundle).variant(name).file for name in ("fp32", models.variant)
        )
        models = replace(
            models,
            dynamic=dynamic_file(fp32, self.temporary / "dynamic.onnx"),
            inlined=inlined_file(int8, self.temporary / "inlined.onnx"),
        )
        if self.checkpoint is None:
            return models
        return replace(
            models,
            unfused=unfused_folder(self.bundle, self.checkpoint, self.temporary),
            ctranslate2=self.converted(self.checkpoint, "ctranslate2"),
        )

    def converted(self, checkpoint: Path, name: str) -> Path | None:
        """Return a checkpoint as CTranslate2 takes it; None, with the reason in `absent`, without one."""
        try:
            return ctranslate2_folder(checkpoint, self.temporary / name)
        except ImportError as error:
            self.absent["CTranslate2 int8"] = f"not importable: {error}"
        except ValueError as error:
            self.absent["CTranslate2 int8"] = f"it does not convert the checkpoint: {error}"
        return None

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The bundle's tokenizer."""
        bundle = read_bundle(self.bundle)
        settings = bundle.settings
        return TextTokenizer(
            bundle.tokenizer_path, max_tokens=settings.max_tokens, pad_token=settings.pad_token
        )

    @cached_property
    def yardstick(self) -> Contender:
        """See `bench.harness.interleave.yardstick`."""
        return yardstick()

    def plan(self, rounds: int, calls: int, **options: int) -> Plan:
        """Return a plan of this size, or a toy one."""
        if self.small:
            rounds, calls = min(rounds, 5), min(calls, 4)
        return Plan(rounds, calls, **options)

    def prompt(self, name: str) -> str:
        """Return a prompt of the encoder, "" when it has none of this name."""
        return read_bundle(self.bundle).encoder_settings.prompts.get(name, "")

    def texts_of_length(self, tokens: int, count: int, seed: int = 0) -> list[str]:
        """Return texts of exactly so many tokens, prompt and special tokens not counted, from the corpus."""
        rng = np.random.default_rng([seed, tokens])
        corpus = " ".join(f"{document.title} {document.text}" for document in self.world.documents[:500])
        special = len(self.tokenizer.tokenize([""]).ids[0])
        found: list[str] = []
        for _ in range(60 * count):
            start = int(rng.integers(max(1, len(corpus) - 4 * tokens)))
            text = corpus[start : start + 4 * tokens].strip()
            prefixes = [text[:end] for end in range(max(1, tokens // 3), len(text) + 1)]
            lengths = np.array(self.tokenizer.tokenize(prefixes).lengths) - special if prefixes else []
            exact = [
                p for p, length in zip(prefixes, lengths, strict=True) if length == tokens and p[-1] != " "
            ]
            if exact:
                found.append(exact[-1])
            if len(found) == count:
                return found
        raise RuntimeError(f"the corpus gives {len(found)} of {count} texts of {tokens} tokens")

    def _best(self) -> str:
        names = {variant.name for variant in read_bundle(self.bundle).variants}
        return best_int8() if best_int8() in names else "auto"


def make_settings(
    temporary: Path,
    *,
    small: bool = False,
    peers: bool = True,
    threads: int = 1,
    bundle: Path | None = None,
    checkpoint: Path | None = None,
    scorer: Path | None = None,
    tower: Path | None = None,
    cache: Path | None = None,
) -> Settings:
    """Find or make the models.

    Nothing is downloaded where the shared folder or a given bundle has them.
    """
    cache = cache or ROOT / ".bench"
    if bundle is None:
        checkpoint = checkpoint or _default_checkpoint()
        bundle = _exported(checkpoint, cache / f"bundle-{checkpoint.name}")
    return Settings(bundle, checkpoint, scorer, tower, small, peers, threads, temporary, cache)


def header(settings: Settings, command: list[str]) -> dict[str, Any]:
    """Return the result file without its rows and warnings."""
    bundle = read_bundle(settings.bundle)
    machine = {**machine_record(), "command": " ".join(["python", "-m", *command])}
    states = {name: f"{version}" for name, version in settings.present.items()}
    states.update({name: f"absent ({reason})" for name, reason in settings.absent.items()})
    return {
        "format": FORMAT,
        "version": VERSION,
        "header": {
            "machine": machine,
            "threads": settings.threads,
            "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            "model": {
                "name": bundle.name,
                "fingerprint": bundle.fingerprint,
                "variant": settings.int8.variant.name,
            },
            "protocol": PROTOCOL,
            "peers": dict(sorted(states.items())),
            "small": settings.small,
            "with_peers": settings.peers,
        },
    }


def _default_checkpoint() -> Path:
    shared = ROOT.parent / "shared/models/me5-small-zh"
    if shared.is_dir():
        return shared
    from relsdk_export.backbones.pull import pull

    return pull("multilingual-e5-small").path


def _exported(checkpoint: Path, target: Path) -> Path:
    if not (target / "relsdk.json").is_file():
        from relsdk_export.encoder import export_encoder

        export_encoder(checkpoint, target, overwrite=True)
    return target
