"""CRMA: teach one language model domain after domain without losing the earlier ones.

The names load what they need when they are first used: opening a stack or asking for help imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crma.checking import check_data
    from crma.continual import ContinualModel
    from crma.model.backbone import BackboneConfig
    from crma.model.birkhoff import project_to_birkhoff, spectral_certificate
    from crma.train.config import LearnConfig
    from crma.types import Example, Message, Reply, Route

__all__ = [
    "BackboneConfig",
    "ContinualModel",
    "Example",
    "LearnConfig",
    "Message",
    "Reply",
    "Route",
    "check_data",
    "project_to_birkhoff",
    "spectral_certificate",
]

_HOMES = {
    "BackboneConfig": "crma.model.backbone",
    "ContinualModel": "crma.continual",
    "Example": "crma.types",
    "LearnConfig": "crma.train.config",
    "Message": "crma.types",
    "Reply": "crma.types",
    "Route": "crma.types",
    "check_data": "crma.checking",
    "project_to_birkhoff": "crma.model.birkhoff",
    "spectral_certificate": "crma.model.birkhoff",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crma' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
