"""Learn a toy's second domain in forked children, each killed (SIGKILL, by itself) at a moment named on stdin.

One line of JSON a run: {"stack", "base", "domain", "kill", "told", "following"}; `kill` is null, {"event", ...fields
of it} or {"audit", "ends"} (an audit event of Python whose path ends so). A line of stdout says how the child ended.
`told` gets the steps the child ran. Forking saves the seconds that importing torch takes; no parent ran a backward
pass.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from two_domains import BACKBONE, CONFIG, DOMAINS, FOLLOWING

from crma.continual import ContinualModel
from crma.stack.stack import Stack

EVERY = 2  # steps between two checkpoints


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def learn(order: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    kill = order["kill"] or {}
    if "audit" in kill:

        def listen(event: str, args: tuple[object, ...]) -> None:
            if event == kill["audit"] and any(
                isinstance(a, str | Path) and str(a).endswith(kill["ends"]) for a in args
            ):
                die()

        sys.addaudithook(listen)
    told: list[object] = []

    def on_event(kind: str, value: Any) -> None:
        if kind == "step":
            told.append([value["phase"], value["step"]])
            Path(order["told"]).write_text(json.dumps(told))
        if kill.get("event") == kind and all(value.get(k) == v for k, v in kill.items() if k != "event"):
            die()

    if Stack.exists(order["stack"]):
        model = ContinualModel.from_pretrained(order["stack"], base=order["base"])
    else:
        model = ContinualModel.create(order["stack"], base=order["base"], backbone=BACKBONE)
    config = (FOLLOWING if order["following"] else CONFIG).model_copy(
        update={"dropout": 0.1, "checkpoint_every": EVERY}
    )
    learnt = model.learn(order["domain"], DOMAINS[order["domain"]], config, on_event=on_event)
    assert learnt.snapshot == model.stack.manifest.domain(order["domain"]).snapshot_learnt


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                learn(json.loads(line))
            except BaseException:  # noqa: BLE001 - a child must end here
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
