"""Two processes at once: no update is lost, and a reader never sees half of one."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from crma.errors import StackError
from crma.stack.stack import Stack

WRITER = """
import sys
from crma.errors import StackLockedError
from crma.stack.layout import DomainRecord
from crma.stack.stack import Stack
root, name, count, timeout = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
done = 0
while done < count:
    try:
        with Stack.open(root).transaction(timeout=timeout) as tx:
            adapter, old = f"adapters/{name}{done}", tx.manifest.router
            tx.write_json(f"{adapter}/adapter_config.json", {"who": name})
            tx.write_json(f"router/after-{name}{done}.json", {"domains": len(tx.manifest.domains) + 1})
            tx.remove(old)
            record = tx.manifest.domains[0].model_copy(
                update={"name": f"{name}{done}", "adapter": adapter, "rows_kept": None}
            )
            tx.update(domains=(*tx.manifest.domains, record), router=f"router/after-{name}{done}.json")
            tx.log({"kind": "learn", "domain": record.name})
        done += 1
    except StackLockedError:
        print("locked", flush=True)
"""


def _writers(root, names, *, count, timeout):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), name, str(count), str(timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for each in started:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    return started


@pytest.mark.parametrize("timeout", [30.0, 0.0], ids=["waiting", "trying again"])
def test_no_update_is_lost(stack, contents, timeout):
    count, names = 12, ["a", "b", "c"]
    for writer in _writers(stack.root, names, count=count, timeout=timeout):
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    found = contents(stack.root)
    learnt = {domain.name for domain in found["manifest"].domains}
    assert learnt == {"medicine", *(f"{name}{i}" for name in names for i in range(count))}
    assert len(found["ledger"]) == 2 + 3 * count
    assert found[found["manifest"].router] == {"domains": 1 + 3 * count}
    assert stack.verify_files() == []


def test_a_reader_during_writes_sees_whole_states(stack, contents):
    reads, told, sizes = 0, [], set()
    (writer,) = _writers(stack.root, ["w"], count=60, timeout=30.0)
    deadline = time.monotonic() + 60
    while writer.poll() is None and time.monotonic() < deadline:
        try:
            found = contents(stack.root)
        except StackError as error:  # the router was replaced between reading the manifest and reading it
            told.append(str(error))
            continue
        assert found[found["manifest"].router].get("domains", 1) in (1, len(found["manifest"].domains))
        assert len(found["ledger"]) == 1 + len(found["manifest"].domains)
        sizes.add(len(found["ledger"]))
        reads += 1
    writer.communicate(timeout=60)
    assert writer.returncode == 0
    assert all("refresh" in each for each in told)
    assert reads > 5
    assert len(sizes) > 2
    assert len(Stack.open(stack.root).manifest.domains) == 61
