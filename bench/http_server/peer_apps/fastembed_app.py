"""What a team writes first: FastAPI around fastembed. Runs in the environment of that peer."""

from __future__ import annotations

import os

from fastapi import FastAPI
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from pydantic import BaseModel

TextEmbedding.add_custom_model(
    model="bench/served",
    pooling=PoolingType.DISABLED,
    normalization=False,
    sources=ModelSource(hf="bench/served"),
    dim=int(os.environ["DIMENSION"]),
    model_file=os.environ["MODEL_FILE"],
    output_name="sentence_embedding",
)
model = TextEmbedding("bench/served", specific_model_path=os.environ["MODEL"], threads=1)
app = FastAPI()


class Inputs(BaseModel):
    input: list[str]


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/v1/embeddings")
def embeddings(inputs: Inputs) -> dict[str, list[dict[str, list[float]]]]:
    return {"data": [{"embedding": vector.tolist()} for vector in model.embed(inputs.input)]}
