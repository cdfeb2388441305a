"""The constant reference: what a person writes first, FastAPI and torch in one process, JSON in and out.

uvicorn benchmarks.baseline.app:app
"""

from __future__ import annotations

import runpy
from pathlib import Path

import torch
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = runpy.run_path(str(Path(__file__).parents[1] / "models/mlp/1/model.py"))["create_model"]().eval()


class Rows(BaseModel):
    x: list[list[float]]


@app.post("/infer")
def infer(rows: Rows) -> dict[str, list[list[float]]]:
    with torch.inference_mode():
        return {"y": model(torch.tensor(rows.x)).tolist()}
