"""The sum of a sequence, and what the server told the model about it."""

import torch


class Total(torch.nn.Module):
    def forward(
        self, x: torch.Tensor, total: torch.Tensor, start: torch.Tensor, number: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        after = total + x
        return {"sum": after, "total_after": after + 0.0, "started": start * 1.0, "id": number + 0}


def create_model() -> torch.nn.Module:
    return Total()
