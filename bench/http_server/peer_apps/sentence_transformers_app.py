"""What a team writes first: FastAPI around sentence-transformers. Runs in the environment of that peer."""

from __future__ import annotations

import os

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

torch.set_num_threads(1)
model = SentenceTransformer(os.environ["MODEL"], device="cpu")
app = FastAPI()


class Inputs(BaseModel):
    input: list[str]


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/v1/embeddings")
def embeddings(inputs: Inputs) -> dict[str, list[dict[str, list[float]]]]:
    vectors = model.encode(inputs.input, normalize_embeddings=True, show_progress_bar=False)
    return {"data": [{"embedding": vector} for vector in vectors.tolist()]}
