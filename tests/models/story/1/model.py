"""After each letter comes the one that follows it first in a sentence; after any other, a space."""

from itertools import pairwise

import torch

SENTENCE = "the quick brown fox jumps over a lazy dog "


class NextLetter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        table = torch.full((128,), ord(" "), dtype=torch.int64)
        for letter, following in reversed(list(pairwise(SENTENCE))):
            table[ord(letter)] = ord(following)
        self.register_buffer("table", table)

    def forward(self, letter: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"next_letter": self.table[letter.clamp(0, 127)]}


def create_model() -> torch.nn.Module:
    return NextLetter()
