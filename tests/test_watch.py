"""The live view says the loss, both gradients and the time left, on a terminal and in a log."""

from __future__ import annotations

import io

from rich.console import Console

from crma.watch import Watch

STEP = {
    "domain": "law",
    "phase": "propose",
    "step": 2,
    "steps": 4,
    "epoch": 0.5,
    "loss": 1.25,
    "seconds": 30.0,
    "tokens": 900,
    "lr": {"adapter": 1e-3},
    "grad_norm": {"adapter": 0.5, "backbone": 0.25},
    "grad_norm_layers": {"adapter": {"0": 0.3, "1": 0.4}, "backbone": {"0": 0.2, "1": 0.15}},
    "sites": [
        {"sigma2": 0.9, "gate": -0.1, "relative_change": 0.01},
        {"sigma2": 0.8, "gate": 0.2, "relative_change": 0.02},
    ],
}


def shown(*, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    with Watch(console, every=1) as watch:
        watch("phase", {"phase": "propose", "domain": "law"})
        watch("step", STEP)
        watch("note", {"text": "half way"})
    return stream.getvalue()


def test_a_log_gets_a_line_with_both_gradients_and_the_time_left():
    text = shown(terminal=False)
    assert "step 2/4" in text
    assert "loss 1.2500" in text
    assert "adapter 0.500" in text
    assert "backbone 0.250" in text
    assert "30 tokens/s" in text
    assert "1:00 left" in text
    assert "half way" in text


def test_a_terminal_gets_the_sites_too():
    text = shown(terminal=True)
    assert "gradient, backbone" in text
    assert "max 0.0200" in text
