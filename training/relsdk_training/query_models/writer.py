"""A transformer that writes queries: an encoder's warm start, or any seq2seq or causal language model.

Shape letters: B examples, T tokens of a document, L tokens of a query, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, EncoderDecoderModel
from transformers.generation.logits_process import LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS
from relsdk.typed_json import read_json
from relsdk_checkpoint.device import default_device
from relsdk_checkpoint.loading import add_lora, load_transformer, merge_lora, quiet, set_dropout
from relsdk_training.config.files import config_from_dict
from relsdk_training.config.settings import QueryModelConfig
from relsdk_training.query_models._sampling import Guidance, Nucleus
from relsdk_training.query_models._warm_start import warm_start
from relsdk_training.query_models.base import QueryExample, QueryRequest
from relsdk_training.query_models.writer_checks import SAVED_SETTINGS, check_settings, positions

__all__ = ["QueryWriter"]

_IGNORED = -100
# Documents that queries are written for at once.
_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class _WriterTokens:
    """N examples as token ids.

    Attributes:
        sources: What is read: the document, or a prompt that holds it.
        queries: What is written, with the end token.
        levels: (N,) levels, or `REPEAT`.
    """

    sources: list[list[int]]
    queries: list[list[int]]
    levels: NDArray[np.int64]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example, both sides."""
        return [len(s) + len(q) for s, q in zip(self.sources, self.queries, strict=True)]


class QueryWriter(nn.Module):
    """f(document, level) -> query.

    Args:
        transformer: The language model.
        settings: Kind, prompt, limits, sampling.
        source: Folder of the tokenizer.

    Raises:
        InputError: The tokenizer has no end token, or does not tell the levels apart.
    """

    def __init__(self, transformer: nn.Module, settings: QueryModelConfig, source: Path) -> None:
        super().__init__()
        self.transformer = transformer
        self.settings = settings
        self.source = source
        with quiet():
            self.tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        end = next(
            (x for x in (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id) if x is not None), None
        )
        if end is None:
            raise InputError(f"{source}: the tokenizer has no end token (eos or sep)")
        self.end: int = int(end)
        pad = self.tokenizer.pad_token_id
        self.pad: int = self.end if pad is None else int(pad)
        # A warm start's decoder begins with the token of the level's digit, or a neutral one, or with the
        # end token, where it repeats the document.
        self.starts = [self._plain(str(level))[-1] for level in range(NUM_LEVELS)]
        neutral = self.tokenizer.cls_token_id
        self.neutral = int(self.pad if neutral is None else neutral)
        if settings.kind == "warm_start" and len({*self.starts, self.neutral}) <= NUM_LEVELS:
            raise InputError(f"{source}: the tokenizer does not tell the digits 0 to 3 apart")
        self.max_tokens = settings.max_tokens
        if settings.kind == "warm_start":
            self.max_tokens = min(settings.max_tokens, positions(_plain_model(transformer).encoder.config))

    @classmethod
    def load(cls, settings: QueryModelConfig) -> QueryWriter:
        """Load a writer that was saved, or start one from `settings.checkpoint`.

        Raises:
            InputError: The folder is no checkpoint of that kind, or the prompt lacks a field.
        """
        check_settings(settings)
        folder = Path(settings.checkpoint)
        if settings.kind == "warm_start":
            saved = (folder / SAVED_SETTINGS).is_file()
            model = (
                load_transformer(EncoderDecoderModel, folder)
                if saved
                else warm_start(folder, settings.decoder_layers, settings.encoder_layers)
            )
            if getattr(model.encoder, "pooler", None) is not None:
                model.encoder.pooler = None  # a warm start has none, so none was saved: it is random
        else:
            kind = AutoModelForSeq2SeqLM if settings.kind == "seq2seq" else AutoModelForCausalLM
            model = load_transformer(kind, folder)
        if settings.dropout is not None:
            set_dropout(model, settings.dropout)
        writer = cls(add_lora(model, settings.lora_rank) if settings.lora_rank else model, settings, folder)
        if settings.freeze_encoder:
            for name, parameter in writer.named_parameters():
                if ".encoder." in name and ".decoder." not in name:
                    parameter.requires_grad = False
        return writer

    @classmethod
    def open(cls, folder: Path, **changes: Any) -> QueryWriter:
        """Load what `save` wrote, on the GPU where there is one.

        Args:
            folder: Of the writer.
            changes: Settings in place of the saved ones, such as guidance or temperature.

        Raises:
            InputError: The folder holds no writer.
        """
        remedy = f"{folder} holds no query model; train one: relsdk train query"
        content = read_json(folder / SAVED_SETTINGS, dict[str, Any], error=InputError, remedy=remedy)
        settings = config_from_dict(QueryModelConfig, content, str(folder / SAVED_SETTINGS))
        writer = cls.load(replace(settings, checkpoint=str(folder), **changes))
        return writer.to(default_device()).eval()

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), tokenizer and settings into an empty folder."""
        with quiet():
            merge_lora(self.transformer).save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        settings = asdict(replace(self.settings, checkpoint="", lora_rank=0))
        (folder / SAVED_SETTINGS).write_text(
            json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8"
        )

    def tokenise(self, examples: Sequence[QueryExample]) -> _WriterTokens:
        """Turn examples into token ids."""
        limit = self.settings.max_query_tokens - 1
        queries = [[*self._plain(example.query)[:limit], self.end] for example in examples]
        sources = [self._source(example.document, example.level) for example in examples]
        return _WriterTokens(sources, queries, np.array([e.level for e in examples], dtype=np.int64))

    def log_likelihoods(
        self,
        tokens: _WriterTokens,
        rows: NDArray[np.int64],
        starts: Sequence[Sequence[int]],
        device: torch.device,
    ) -> list[Tensor]:
        """Return the log-likelihood of each query.

        Args:
            tokens: Examples.
            rows: (B,) which of them.
            starts: For warm starts, lists (B,) of start tokens: the documents are read once and the queries
                scored under each. Other kinds have the level in their prompt, and get one list.
            device: Where the module is.

        Returns:
            One (B, L) float32 for each list of starts, 0 where a query has ended.
        """
        sources = [tokens.sources[row] for row in rows]
        queries = [tokens.queries[row] for row in rows]
        if self.settings.kind == "causal":
            return [self._causal(sources, queries, device)]
        ids, mask = self._pad(sources, device)
        labels, _ = self._pad(queries, device, fill=_IGNORED)  # (B, L)
        if self.settings.kind == "seq2seq":
            logits = self.transformer(input_ids=ids, attention_mask=mask, labels=labels).logits
            return [_gather(logits, labels)]
        inner = _plain_model(self.transformer)
        hidden = inner.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
        likelihoods = []
        for start in starts:
            first = torch.tensor(list(start), device=device)[:, None]  # (B, 1)
            before = torch.cat([first, labels[:, :-1].clamp(min=0)], dim=1)  # (B, L)
            logits = self.transformer(
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
                attention_mask=mask,
                decoder_input_ids=before,
                use_cache=False,
            ).logits
            likelihoods.append(_gather(logits, labels))
        return likelihoods

    @torch.inference_mode()
    def write(self, requests: Sequence[QueryRequest], *, samples: int, seed: int) -> list[list[str]]:
        """Write queries; see `QueryModel`."""
        self.eval()
        written: list[list[str]] = [[] for _ in requests]
        sources = [self._source(request.document, request.level) for request in requests]
        order = np.argsort([len(source) for source in sources], kind="stable")
        devices = range(torch.cuda.device_count())
        for start in range(0, len(order), _AT_ONCE):
            rows = order[start : start + _AT_ONCE]
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed((seed * 1_000_003 + start) % 2**63)
                texts = self._generate(
                    [sources[row] for row in rows], [requests[row].level for row in rows], samples
                )
            for number, row in enumerate(rows):
                written[row] = texts[number * samples : (number + 1) * samples]
        return written

    def _generate(self, sources: list[list[int]], levels: Sequence[int], samples: int) -> list[str]:
        settings, model = self.settings, _plain_model(self.transformer)
        device = next(model.parameters()).device
        options: dict[str, Any] = {
            "do_sample": True,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "max_new_tokens": settings.max_query_tokens,
            "eos_token_id": self.end,
            "pad_token_id": self.pad,
            "logits_processor": LogitsProcessorList([Nucleus(settings.temperature, settings.top_p)]),
        }
        ids, mask = self._pad(sources, device, left=settings.kind == "causal")
        if settings.kind == "warm_start":
            hidden = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            hidden, mask = (x.repeat_interleave(samples, dim=0) for x in (hidden, mask))
            if settings.guidance != 1.0:
                guide = Guidance(model, hidden, mask, self.neutral, settings.guidance)
                options["logits_processor"].insert(0, guide)
            options |= {
                "encoder_outputs": BaseModelOutput(last_hidden_state=hidden),
                "decoder_start_token_id": [self.starts[level] for level in levels for _ in range(samples)],
            }
        else:
            options |= {"input_ids": ids, "num_return_sequences": samples}
        with quiet():
            output = model.generate(attention_mask=mask, **options)
        skip = ids.shape[1] if settings.kind == "causal" else 1
        texts: list[str] = self.tokenizer.batch_decode(output[:, skip:], skip_special_tokens=True)
        return texts

    def _causal(self, sources: list[list[int]], queries: list[list[int]], device: torch.device) -> Tensor:
        whole = [source + query for source, query in zip(sources, queries, strict=True)]
        ids, mask = self._pad(whole, device)
        labels, _ = self._pad(
            [[_IGNORED] * len(s) + q for s, q in zip(sources, queries, strict=True)], device, fill=_IGNORED
        )
        logits = self.transformer(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return _gather(logits[:, :-1], labels[:, 1:])

    def _source(self, document: str, level: int) -> list[int]:
        settings = self.settings
        if settings.kind == "warm_start":
            ids: list[int] = self.tokenizer(document, truncation=True, max_length=self.max_tokens)[
                "input_ids"
            ]
            return ids
        short = self.tokenizer.decode(self._plain(document)[: settings.max_tokens])
        prompt = settings.prompt.format(document=short, level=settings.level_names[level])
        return self._plain(prompt) if settings.kind == "causal" else self.tokenizer(prompt)["input_ids"]

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _pad(
        self,
        lists: Sequence[Sequence[int]],
        device: torch.device,
        *,
        fill: int | None = None,
        left: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Pad lists of ids: ids and mask, (B, longest) int64."""
        longest = max(1, *(len(ids) for ids in lists))
        padded = torch.full((len(lists), longest), self.pad if fill is None else fill, dtype=torch.int64)
        mask = torch.zeros_like(padded)
        for row, ids in enumerate(lists):
            at = slice(longest - len(ids), None) if left else slice(0, len(ids))
            padded[row, at] = torch.tensor(ids, dtype=torch.int64)
            mask[row, at] = 1
        return padded.to(device), mask.to(device)


def _plain_model(model: Any) -> Any:
    """Return the plain model inside low-rank updates, which stay in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _gather(logits: Tensor, labels: Tensor) -> Tensor:
    """Log p of the labels (B, L) under logits (B, L, V); 0 where a label is ignored."""
    real = labels != _IGNORED
    flat = nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=_IGNORED, reduction="none"
    )
    return -flat * real
