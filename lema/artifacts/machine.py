"""What an artifact was made on: device, and versions of the packages that affect its numbers; no user, no path."""

import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("lema", "torch", "transformers", "peft", "bitsandbytes", "flash-attn")


def made_on() -> dict[str, object]:
    """`{"device": "NVIDIA A100-SXM4-80GB", "gpus": 1, "versions": {"torch": "2.13.0", …}}`; a CPU has `gpus` 0."""
    torch = sys.modules.get("torch")  # a step that computed with it has imported it; the others need not wait for it
    gpus = torch.cuda.device_count() if torch and torch.cuda.is_available() else 0
    device = torch.cuda.get_device_name(0) if torch and gpus else f"CPU ({platform.machine()})"
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"device": device, "gpus": min(gpus, 1), "versions": versions}  # a process computes on one
