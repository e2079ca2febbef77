"""The fp32 graph by Optimum instead of torch.onnx's dynamo: a second, independent exporter.

Optimum pins a transformers of its own, so it lives in a virtual environment of its own (`relsdk[optimum]`).
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from relsdk.errors import MissingExtraError, RelsdkError
from relsdk_checkpoint.loading import quiet

__all__ = ["require_optimum", "write_onnx_with_optimum"]

OPSET = 18  # what the int8 rewrite's operators need at least


def require_optimum() -> None:
    """Raise `MissingExtraError` where Optimum is not installed."""
    try:
        import optimum.exporters.onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "--exporter optimum (in a virtual environment of its own, because it pins its transformers)",
            "optimum",
        ) from error


def write_onnx_with_optimum(checkpoint: Path, path: Path) -> None:
    """Export a checkpoint's token vectors; pooling and normalisation stay outside the graph.

    Args:
        checkpoint: Folder with safetensors weights.
        path: The ONNX file to write; weights past one file's limit go beside it.

    Raises:
        MissingExtraError: Optimum is not installed.
        RelsdkError: Optimum cannot export this architecture.
    """
    require_optimum()
    from optimum.exporters.onnx import main_export

    with TemporaryDirectory(dir=path.parent.parent) as folder:
        try:
            with quiet():
                main_export(
                    str(checkpoint),
                    output=folder,
                    task="feature-extraction",
                    library_name="transformers",
                    opset=OPSET,
                    device="cpu",
                    do_validation=False,  # the parity check does it, on real sentences
                    trust_remote_code=False,
                    local_files_only=True,
                )
        except Exception as error:  # exporters raise whatever went wrong inside
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RelsdkError(f"Optimum cannot export {checkpoint}: {reason}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        for made in Path(folder).glob(f"{path.name}*"):
            made.rename(path.parent / made.name)
    if not path.is_file():
        raise RelsdkError(f"Optimum wrote no {path.name} for {checkpoint}")
