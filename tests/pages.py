"""The page of the benchmarks: what a number was measured on, and where its table stands."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

_PAGE = Path(__file__).with_name("benchmarks") / "README.md"
GPU = torch.cuda.is_available()


def machine(*libraries: str) -> str:
    """What it was measured on and with: "NVIDIA H200, 16 cores; Python 3.11.7, torch 2.11.0, ..."."""
    chip = platform.machine()
    if GPU:
        chip = torch.cuda.get_device_name()
    elif (info := Path("/proc/cpuinfo")).exists():
        named = re.search(r"model name\s*: (.+)", info.read_text())
        chip = named[1].strip() if named else chip
    threads = "" if GPU else f", {torch.get_num_threads()} used"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", *libraries))
    return f"{chip}, {os.cpu_count()} cores{threads}; Python {platform.python_version()}, {versions}"


def publish(name: str, lines: list[str]) -> None:
    """Put a benchmark's lines in place of its last run's, between two marks named after the kind of machine."""
    begin, end = (f"<!-- {edge} {name} {'gpu' if GPU else 'cpu'} -->" for edge in ("begin", "end"))
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    _PAGE.write_text(before + "\n".join([begin, *lines]) + end + after, encoding="utf-8")
