"""Train an encoder on graded pairs and export it as a bundle that serves without torch.

Needs: pip install '.[export,train]'. A GPU is used where there is one.
Run: python examples/train_and_export.py CHECKPOINT train.jsonl dev.jsonl FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from relsdk.formats import read_pairs
from relsdk.tools.evaluation import calibrate_bundle
from relsdk_export.encoder import export_encoder
from relsdk_training.config.files import load_config
from relsdk_training.config.settings import EmbedConfig
from relsdk_training.runs.embed import train_embed


def main(checkpoint: str, train: str, dev: str, folder: str, *settings: str) -> None:
    """Write FOLDER/run, the training, and FOLDER/bundle, calibrated on dev."""
    run, bundle = Path(folder) / "run", Path(folder) / "bundle"
    own = [f"data.train={train}", f"data.dev={dev}", f"model.checkpoint={checkpoint}", f"run.output={run}"]
    result = train_embed(load_config(EmbedConfig, Path("embed.toml"), [*own, *settings]))
    print(f"step {result.best_step} is best: mean AP {result.best['mean_ap']:.3f} on dev")
    export_encoder(run / "best", bundle)
    calibrate_bundle(bundle, list(read_pairs(dev)))
    print(f"{bundle}: query it with relsdk index build and relsdk query")


if __name__ == "__main__":
    main(*sys.argv[1:])
