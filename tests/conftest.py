"""What every test has: one thread (two processes on two cores otherwise stall each other), no network, toys on disk."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama and its tokenizer."""
    from toys import save_toy

    return save_toy(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the project, or a skip that says why."""
    folder = Path(os.environ.get("CRMA_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: set CRMA_SHARED to the folder that holds data/ (looked for {folder.name})")
    return folder
