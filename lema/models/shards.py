"""A model's weights in files with an index, as transformers writes them, without holding more than one file of them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


class Shards:
    """The files of one folder, each of at most `most` bytes unless one tensor has more."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.held: dict[str, torch.Tensor] = {}
        self.parameters = self.size = 0
        self.names: list[list[str]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor; what is held is written first where a file has no room for both."""
        if self.held and tensor.nbytes + sum(each.nbytes for each in self.held.values()) > self.most:
            self._write()
        self.held[name] = tensor.cpu().contiguous()

    def _write(self) -> None:
        self.names.append(list(self.held))
        self.parameters += sum(each.numel() for each in self.held.values())
        self.size += sum(each.nbytes for each in self.held.values())
        save_file(self.held, self.folder / f"{len(self.names)}.safetensors", metadata={"format": "pt"})
        self.held = {}

    def close(self) -> None:
        """Write the rest, give the files the names that transformers looks for, and write the index of several."""
        self._write()
        number = len(self.names)
        files = [f"model-{each + 1:05}-of-{number:05}.safetensors" for each in range(number)]
        if number == 1:
            files = ["model.safetensors"]
        for place, file in enumerate(files, 1):
            (self.folder / f"{place}.safetensors").rename(self.folder / file)
        if number > 1:
            of = {name: file for names, file in zip(self.names, files, strict=True) for name in names}
            index = {"metadata": {"total_parameters": self.parameters, "total_size": self.size}, "weight_map": of}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            (self.folder / "model.safetensors.index.json").write_text(text)
