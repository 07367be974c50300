"""A receipt: the JSON file a number is computed from, with all that is needed to get it again."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

__all__ = ["machine", "write_receipt"]

_PACKAGES = ("crma", "torch", "transformers", "peft", "accelerate", "numpy", "safetensors")


def machine() -> dict[str, Any]:
    """What the numbers were made on, without its name or paths."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def write_receipt(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` with the time and the machine, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    full = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **content}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(full, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)
