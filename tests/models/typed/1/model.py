"""Gives back what it gets, for every datatype that torch computes with."""

import torch


class Echo(torch.nn.Module):
    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.clone() for tensor in tensors)


def create_model() -> torch.nn.Module:
    return Echo()
