"""Put a bundle into a repository of the Hugging Face hub, with a card that holds its evaluation results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResult,
    HfApi,
    ModelCardData,
    constants,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from relsdk.bundle import Bundle, read_bundle, repository_files
from relsdk.errors import BundleError, InputError, RelsdkError
from relsdk.models.open import open_pair_model
from relsdk.runtime.variants import runs_exactly
from relsdk_export.model_card import model_card

__all__ = ["Pushed", "push_bundle"]

# What the hub calls the two kinds.
_TASKS = {"encoder": "sentence-similarity", "scorer": "text-ranking"}
# Measures by their name in relsdk.json, as the card calls them.
_ORDER = {"ap_1": "AP>=1", "ap_2": "AP>=2", "ap_3": "AP=3", "mean_ap": "mean AP", "ndcg_at_10": "nDCG@10"}
_LEVELS = {"accuracy": "accuracy", "qwk": "QWK", "ece": "ECE", "brier": "Brier score"}


@dataclass(frozen=True, slots=True)
class Pushed:
    """What is, or would be, in the repository.

    Attributes:
        url: The repository.
        commit: The commit's hash; empty where nothing was uploaded.
        files: Sizes in bytes by path.
        removed: Graphs of an earlier bundle that the commit removed.
        card: The model card.
    """

    url: str
    commit: str
    files: Mapping[str, int]
    removed: tuple[str, ...]
    card: str


def push_bundle(
    folder: Path,
    repository: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Pushed:
    """Verify a bundle and upload it in one commit; the repository is made where it does not exist.

    The hub is that of `HF_ENDPOINT`, and the token huggingface_hub's own: `HF_TOKEN`, or that of
    `hf auth login`.

    Args:
        folder: A bundle that relsdk has written.
        repository: `owner/name`.
        private: Make a new repository private, and refuse one that is public.
        dry_run: Verify, and say what would be uploaded, without a token or a network.
        on_step: Called with a short description before each step.

    Returns:
        What is in the repository.

    Raises:
        InputError: The name is none, nobody is logged in, relsdk did not write the bundle, or the repository
            is public and `private` was asked for.
        BundleError: The bundle is damaged or gives other outputs than when it was made; nothing is uploaded.
        RelsdkError: The hub cannot be reached or refuses.
    """
    _check_name(repository)
    bundle = read_bundle(folder)
    if not bundle.files:
        raise InputError(
            f"{bundle.path} was not made by relsdk; upload it with: hf upload {repository} {bundle.path}"
        )
    if not dry_run:
        _check_login()
    on_step("verify the bundle")
    _verify(bundle)
    card = _hub_card(bundle, repository)
    files = repository_files(bundle, card)
    sizes = {name: len(c) if isinstance(c, bytes) else c.stat().st_size for name, c in files.items()}
    url = f"{constants.ENDPOINT}/{repository}"
    if dry_run:
        return Pushed(url, "", sizes, (), card)
    on_step(f"upload {sum(sizes.values()) / 1e6:.1f} MB to {url}")
    try:
        commit, removed = _upload(bundle, files, repository, private)
    except RelsdkError:
        raise
    except Exception as error:  # of the hub, the network, the disk
        raise RelsdkError(_refusal(error, repository)) from error
    return Pushed(url, commit, sizes, removed, card)


def _hub_card(bundle: Bundle, repository: str) -> str:
    """Return the model card: metadata with the evaluation results, then what `model_card` says."""
    results = list(_results(bundle))
    data = ModelCardData(
        library_name="relsdk",
        pipeline_tag=_TASKS[bundle.kind],
        tags=["relsdk", "onnx"],
        model_name=repository.split("/")[1] if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{model_card(bundle, source=repository)}"


def _results(bundle: Bundle) -> Iterator[EvalResult]:
    """Yield what was measured of each variant: on the pairs of the quality gate, and of the calibrations."""
    for variant in bundle.variants:
        gate = variant.quality.get("gate", {})
        yield from _metrics("text-ranking", "order", variant.name, gate, _ORDER)
        for key, report in variant.quality.get("calibration", {}).items():
            config = f"{variant.name}, {key}"
            yield from _metrics("text-classification", "levels", config, report.get("grading", {}), _LEVELS)


def _metrics(
    task: str, what: str, config: str, measured: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[EvalResult]:
    for key, name in names.items():
        if measured.get(key) is not None:
            yield EvalResult(
                task_type=task,
                task_name=f"{what} ({config})",
                dataset_type="labelled-pairs",
                dataset_name=f"{measured['pairs']:,} labelled pairs",
                dataset_config=config,
                metric_type=key,
                metric_name=name,
                metric_value=measured[key],
            )


def _check_name(repository: str) -> None:
    try:
        validate_repo_id(repository)
        named = repository.count("/") == 1
    except HFValidationError:
        named = False
    if not named:
        raise InputError(f"{repository!r} is no repository; name one as owner/name")


def _check_login() -> None:
    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set; unset it to upload")
    if get_token() is None:
        raise InputError(
            f"not logged in to {constants.ENDPOINT}; set HF_TOKEN to a token that may write, or run: "
            "hf auth login"
        )


def _verify(bundle: Bundle) -> None:
    """Raise `BundleError` unless every hash is right, and every variant that runs here gives what it gave."""
    bundle.check_hashes()
    for variant in bundle.variants:
        if runs_exactly(variant):
            verification = open_pair_model(bundle.path, variant=variant.name).verify()
            if not verification.passed:
                problems = "; ".join(verification.problems)
                raise BundleError(f"{bundle.path} is not what was exported: {variant.name}: {problems}")


def _upload(
    bundle: Bundle, files: Mapping[str, Path | bytes], repository: str, private: bool
) -> tuple[str, tuple[str, ...]]:
    """Upload in one commit, on top of what is there now; return its hash, and what it removed."""
    api = HfApi()
    api.create_repo(repository, private=private or None, exist_ok=True)
    info = api.repo_info(repository)
    if private and not info.private:
        raise InputError(
            f"{repository} exists and is public; make it private in its settings on "
            f"{constants.ENDPOINT}, or leave out --private"
        )
    graphs = {PurePosixPath(name).parent for variant in bundle.variants for name in variant.graphs}
    there = api.list_repo_files(repository, revision=info.sha)
    removed = tuple(n for n in there if n not in files and PurePosixPath(n).parent in graphs)
    commit = api.create_commit(
        repository,
        [
            *(CommitOperationAdd(name, content) for name, content in files.items()),
            *(CommitOperationDelete(name) for name in removed),
        ],
        commit_message=f"{bundle.name}, fingerprint {bundle.fingerprint}",
        parent_commit=info.sha,
    )
    if missing := files.keys() - set(api.list_repo_files(repository, revision=commit.oid)):
        raise RelsdkError(
            f"{repository} has no {', '.join(sorted(missing))} after the upload; look at its .gitignore"
        )
    return commit.oid, removed


def _refusal(error: Exception, repository: str) -> str:
    """Say in one line why the hub did not take a bundle."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        owner = repository.split("/")[0]
        return f"{constants.ENDPOINT} refuses: {reason}; the token needs the right to write to {owner}"
    if status == 412:
        return f"{repository} was changed by another upload meanwhile; look at it, and push again"
    return f"{constants.ENDPOINT} did not take {repository}: {reason}; push again"
