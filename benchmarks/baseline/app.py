"""The constant reference: what a person writes first, FastAPI and torch in one process, JSON in and out.

uvicorn benchmarks.baseline.app:app
"""

from __future__ import annotations

import runpy
from pathlib import Path

import torch
from fastapi import FastAPI
from pydantic import BaseModel

MODELS = Path(__file__).parents[1] / "models"


def load(name: str) -> torch.nn.Module:
    model: torch.nn.Module = runpy.run_path(str(MODELS / name / "1/model.py"))["create_model"]()
    return model.eval()


app = FastAPI()
mlp, cnn = load("mlp"), load("cnn")


class Rows(BaseModel):
    x: list[list[float]]


class Images(BaseModel):
    image: list[list[list[list[float]]]]


@app.post("/mlp/infer")
def infer_rows(rows: Rows) -> dict[str, list[list[float]]]:
    with torch.inference_mode():
        return {"y": mlp(torch.tensor(rows.x)).tolist()}


@app.post("/cnn/infer")
def infer_images(images: Images) -> dict[str, list[list[float]]]:
    with torch.inference_mode():
        return {"scores": cnn(torch.tensor(images.image)).tolist()}
