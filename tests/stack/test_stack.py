"""A stack keeps what it was given, gives it back, and refuses what would harm it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from crma.errors import (
    BaseMismatchError,
    ConfigError,
    CrmaError,
    StackCorruptError,
    StackError,
    StackLockedError,
    StackVersionError,
    UnknownDomainError,
)
from crma.stack.layout import FORMAT_VERSION, BaseReference, Manifest, path_fault
from crma.stack.stack import Stack

ADAPTER = "adapters/medicine/adapter_model.safetensors"


def test_what_was_learnt_is_read_back(stack, teach, contents):
    teach(stack, "law")
    seen = contents(stack.root)
    manifest = seen["manifest"]
    assert manifest == stack.manifest
    assert [d.name for d in manifest.domains] == ["medicine", "law"]
    assert (manifest.head, manifest.snapshot("v0002").parent) == ("v0002", "v0001")
    assert manifest.backbone == {"frames": 16}
    assert stack.read_tensors(ADAPTER)["a"].shape == (40, 4)
    assert stack.read_lines("rows/law.jsonl")[2] == {"prompt": "law 2?", "completion": "né\u2028 文"}
    assert [entry["kind"] for entry in seen["ledger"]] == ["create", "learn", "learn"]
    assert seen["ledger"][2]["scores"] == {"loss": 1.25}
    assert stack.verify_files() == []


def test_the_replaced_router_is_gone_from_the_disk(stack, teach):
    old = stack.root / stack.manifest.router
    teach(stack, "law")
    assert not old.exists()


def test_forgetting_takes_the_files_and_leaves_the_rest(stack, teach, forget, contents):
    teach(stack, "law")
    kept = contents(stack.root)["adapters/law/adapter_model.safetensors"]
    forget(stack, "medicine")
    assert not (stack.root / "adapters/medicine").exists()
    assert [d.name for d in stack.manifest.domains] == ["law"]
    assert contents(stack.root)["adapters/law/adapter_model.safetensors"] == kept
    assert stack.verify_files() == []
    teach(stack, "medicine")  # the name is free again
    assert stack.manifest.next_snapshot_id == "v0004"


def test_opening_needs_no_torch_and_no_writable_folder(stack):
    code = (
        "import sys; from crma.stack.stack import Stack; Stack.open(sys.argv[1]);"
        "sys.exit(', '.join({'torch', 'transformers', 'peft'} & sys.modules.keys()) or None)"
    )
    before = sorted(stack.root.rglob("*"))
    subprocess.run([sys.executable, "-c", code, str(stack.root)], check=True, timeout=60)
    assert sorted(stack.root.rglob("*")) == before


def test_an_exception_undoes_everything(stack, tree):
    before = tree(stack.root)
    with pytest.raises(ZeroDivisionError), stack.transaction() as tx:  # noqa: PT012 - the block is the story
        tx.write_json("adapters/law/adapter_config.json", {})
        tx.remove("adapters/medicine")
        tx.log({"kind": "learn"})
        raise ZeroDivisionError
    assert tree(stack.root) == before
    with pytest.raises(StackError, match="has ended"):
        tx.write_json("adapters/law/adapter_config.json", {})


def test_a_transaction_that_does_nothing_changes_nothing(stack, tree):
    before = tree(stack.root)
    with stack.transaction():
        pass
    assert tree(stack.root) == before


def test_every_commit_leaves_a_ledger_entry(stack):
    with stack.transaction() as tx:
        tx.update(backbone={"frames": 32})
    assert stack.read_ledger()[-1]["kind"] == "change"


def test_a_file_in_the_manifest_cannot_be_overwritten(stack, tree):
    before = tree(stack.root)
    for path in (ADAPTER, ADAPTER.replace("medicine", "MEDICINE")):
        with pytest.raises(StackError, match="never changes") as caught, stack.transaction() as tx:
            tx.write_json(path, {})
        assert "adapter_model.safetensors.2" in str(caught.value)
    with pytest.raises(StackError, match="never changes"), stack.transaction() as tx:  # noqa: PT012 - the block is the story
        tx.remove("adapters/medicine")
        tx.write_json("adapters/medicine/adapter_config.json", {})
    assert tree(stack.root) == before


def test_a_fresh_path_is_one_that_was_not_used(stack):
    with stack.transaction() as tx:
        assert tx.fresh_path("adapters/law") == "adapters/law"
        assert tx.fresh_path("adapters/Medicine") == "adapters/Medicine.2"


def test_a_stale_list_of_domains_cannot_drop_one(stack, teach, tree):
    stale = stack.manifest.domains
    teach(Stack.open(stack.root), "law")
    before = tree(stack.root)
    with pytest.raises(StackError, match="hold together") as caught, stack.transaction() as tx:
        tx.update(domains=stale)
    assert "no record refers to the file 'adapters/law" in str(caught.value)
    assert tree(stack.root) == before
    assert [d.name for d in stack.manifest.domains] == ["medicine", "law"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head": "v0009"}, "head v0009 is not among the snapshots"),
        ({"router": "router/none"}, "where no file is"),
        ({"snapshots": ()}, "pinned to the snapshot v0001"),
        ({"backbone": 3}, "backbone"),
    ],
)
def test_records_must_hold_together(stack, tree, change, reason):
    before = tree(stack.root)
    with pytest.raises(StackError, match=reason), stack.transaction() as tx:
        tx.update(**change)
    assert tree(stack.root) == before


def test_two_domains_cannot_share_a_name(stack):
    record = stack.manifest.domain("medicine")
    with pytest.raises(StackError, match="two domains are called 'Medicine'"), stack.transaction() as tx:
        tx.update(domains=(record, record.model_copy(update={"name": "Medicine"})))


def test_the_base_may_move_but_not_change(stack, base):
    with stack.transaction() as tx:
        tx.update(base=base.model_copy(update={"source": "/elsewhere/toy"}))
    assert Stack.open(stack.root).manifest.base.source == "/elsewhere/toy"
    with pytest.raises(BaseMismatchError), stack.transaction() as tx:
        tx.update(base=base.model_copy(update={"weights_sha256": "9" * 64}))
    with pytest.raises(TypeError, match="files"), stack.transaction() as tx:
        tx.update(files={})


def test_unknown_names_tell_the_known_ones(stack):
    with pytest.raises(UnknownDomainError, match="medicine"):
        stack.manifest.domain("law")
    with pytest.raises(StackError, match="v0001"):
        stack.manifest.snapshot("v0007")
    with pytest.raises(StackError, match=r"adapter_config\.json"):
        stack.read_json("adapters/medicine/config.json")


# Paths

OUTSIDE = [
    "../escape.json",
    "adapters/../../escape.json",
    "adapters/..",
    "/etc/passwd",
    "adapters//x.json",
    "adapters/./x.json",
    "adapters\\..\\x.json",
    "adapters/",
    "adapters",
    "",
    "work/medicine/x.json",
    "manifest.json",
    "adapters/.hidden",
    "adapters/C:x",
    "adapters/x\n",
    "adapters/x\0",
    "adapters/é",
    "adapters/" + "x" * 300,
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leaves_the_stack(stack, tree, path):
    before = tree(stack.root.parent)
    assert path_fault(path) is not None
    for use in (stack.read_json, stack.read_tensors, stack.path_of):
        with pytest.raises(StackError):
            use(path)
    for verb in ("write_json", "remove"):
        with pytest.raises(StackError), stack.transaction() as tx:
            getattr(tx, verb)(path, *([{}] if verb == "write_json" else []))
    assert tree(stack.root.parent) == before


def test_links_are_not_followed(stack, tmp_path, contents):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.json").write_text("{}")
    (stack.root / "adapters/law").symlink_to(outside)
    before = contents(stack.root)
    with pytest.raises(ZeroDivisionError), stack.transaction() as tx:  # noqa: PT012 - the block is the story
        (stack.root / "adapters/code").symlink_to(outside)
        with pytest.raises(StackError, match="link"):
            tx.write_json("adapters/code/precious.json", {"changed": True})
        raise ZeroDivisionError
    with stack.transaction():
        pass
    assert (outside / "precious.json").read_text() == "{}"
    assert not (stack.root / "adapters/law").is_symlink()  # nobody's: cleaned as a leftover
    assert contents(stack.root) == before


def test_a_folder_that_was_moved_and_linked_is_reported_and_kept(stack, disk):
    (stack.root / "adapters/medicine").rename(disk / "moved")
    (stack.root / "adapters/medicine").symlink_to(disk / "moved")
    for use in (lambda: stack.read_tensors(ADAPTER), lambda: stack.path_of("adapters/medicine")):
        with pytest.raises(StackError, match="link"):
            use()
    with stack.transaction():
        pass
    assert {problem.kind for problem in stack.verify_files()} == {"link"}
    assert (disk / "moved/adapter_config.json").exists()


def test_a_manifest_cannot_point_outside(stack):
    def move(fields):
        fields["files"]["../../secret"] = fields["files"].pop(ADAPTER)

    _rewrite(stack.root, move)
    with pytest.raises(StackCorruptError, match=r"\.\./\.\./secret"):
        Stack.open(stack.root)


def test_scratch_space_is_nobodys_business(stack, teach):
    (stack.work("law") / "step-10.bin").write_bytes(b"half way")
    teach(stack, "law")
    assert (stack.work("law") / "step-10.bin").read_bytes() == b"half way"
    assert stack.verify_files() == []
    assert stack.sizes()["work"] == 8
    stack.clear_work("law")
    assert not (stack.root / "work/law").exists()
    with pytest.raises(ConfigError):
        stack.work("../adapters")


def test_sizes_add_up(stack, tree):
    sizes = stack.sizes()
    assert sum(sizes.values()) == sum(map(len, tree(stack.root).values()))
    assert sizes["snapshots"] == (stack.root / "snapshots/v0001/backbone.safetensors").stat().st_size


# Where a stack can be


def _rewrite(root: Path, change) -> None:
    """Edit a manifest as somebody would who also knows about its checksum."""
    fields = json.loads((root / "manifest.json").read_text())
    del fields["sha256"]
    change(fields)
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    fields["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (root / "manifest.json").write_text(json.dumps(fields))


def test_an_unknown_format_is_refused(stack):
    _rewrite(stack.root, lambda fields: fields.update(format_version=FORMAT_VERSION + 1, crma_version="9.0", new=1))
    with pytest.raises(StackVersionError, match=r"format 2, written by CRMA 9\.0"):
        Stack.open(stack.root)
    with pytest.raises(StackVersionError), stack.transaction():
        pass


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"format_version": "1"}', '{"format_version": true}', "\0"]
)
def test_a_manifest_that_is_none_is_corrupt(stack, text):
    (stack.root / "manifest.json").write_text(text)
    with pytest.raises(StackCorruptError, match=r"put manifest\.copy\.json"):
        Stack.open(stack.root)


@pytest.mark.parametrize("loss", ["manifest.json cut", "manifest.json gone"])
def test_a_lost_manifest_comes_back_from_its_copy(stack, contents, loss):
    before = contents(stack.root)
    if loss.endswith("cut"):
        (stack.root / "manifest.json").write_bytes((stack.root / "manifest.json").read_bytes()[:100])
    else:
        (stack.root / "manifest.json").unlink()
    with pytest.raises(StackCorruptError, match=r"put manifest\.copy\.json"):
        Stack.open(stack.root)
    (stack.root / "manifest.json").write_bytes((stack.root / "manifest.copy.json").read_bytes())
    assert contents(stack.root) == before


@pytest.mark.parametrize("with_it", ["nothing", "no copy", "the ledger"])
def test_an_old_manifest_put_back_does_not_delete_what_came_after(stack, teach, tree, with_it):
    old = {name: (stack.root / name).read_bytes() for name in ("manifest.json", "ledger.jsonl")}
    teach(stack, "law")
    teach(stack, "code")
    (stack.root / "manifest.json").write_bytes(old["manifest.json"])
    if with_it == "no copy":
        (stack.root / "manifest.copy.json").unlink()
    if with_it == "the ledger":
        (stack.root / "ledger.jsonl").write_bytes(old["ledger.jsonl"])
    before = tree(stack.root)
    with pytest.raises(StackError, match="older than"), stack.transaction():
        pass
    assert tree(stack.root) == before


def test_no_stack_no_guess(tmp_path, base):
    for path in (tmp_path, tmp_path / "nowhere"):
        assert not Stack.exists(path)
        with pytest.raises(StackError, match="no stack here"):
            Stack.open(path)
    assert not (tmp_path / "nowhere").exists()
    Stack.create(tmp_path / "a/b", base=base)
    assert Stack.exists(tmp_path / "a/b")
    with pytest.raises(StackError, match="a stack already"):
        Stack.create(tmp_path / "a/b", base=base)


@pytest.mark.parametrize("name", ["adapters/mine.txt", "work/notes.txt", "ledger.jsonl", "manifest.copy.json"])
def test_a_stack_is_not_made_over_other_files(tmp_path, base, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(StackError, match=name.split("/", maxsplit=1)[0]):
        Stack.create(tmp_path, base=base)
    assert (tmp_path / name).read_text() == "mine"


def test_other_files_beside_a_stack_are_left_alone(tmp_path, base, teach):
    (tmp_path / "README.md").write_text("mine")
    teach(Stack.create(tmp_path, base=base), "medicine")
    assert (tmp_path / "README.md").read_text() == "mine"


# The lock, within one process


def test_a_training_run_holds_the_lock_and_still_writes(stack, teach):
    with stack.lock() as held:
        with held.lock():
            teach(held, "law")
        with pytest.raises(StackLockedError, match="this process, through another Stack object"):
            teach(Stack.open(stack.root), "code")
        with pytest.raises(StackLockedError, match=r"waited 0\.2 s"):
            teach(Stack.open(stack.root), "code", timeout=0.2)
    teach(Stack.open(stack.root), "code")
    assert len(stack.refresh().domains) == 3


def test_a_transaction_holds_no_other(stack, teach):
    for timeout in (0.0, 60.0, -1.0):
        with pytest.raises(StackLockedError, match="the same thread"), stack.transaction():
            teach(stack, "law", timeout=timeout)
    teach(stack, "law")


def test_threads_take_turns(stack, teach):
    threads = [threading.Thread(target=teach, args=(stack, f"d{i}"), kwargs={"timeout": 60.0}) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {d.name for d in stack.manifest.domains} == {"medicine", *(f"d{i}" for i in range(6))}
    assert stack.verify_files() == []


def test_a_deleted_lock_is_no_way_round_the_first_writer(stack, teach):
    with pytest.raises(StackLockedError, match="under our lock"), stack.transaction() as tx:  # noqa: PT012 - the block is the story
        (stack.root / ".lock").unlink()
        teach(Stack.open(stack.root), "law")
        tx.update(backbone=None)
    assert [d.name for d in stack.refresh().domains] == ["medicine", "law"]


def test_an_old_reader_is_told_to_refresh(stack, teach, forget):
    reader = Stack.open(stack.root)
    forget(stack, "medicine")
    with pytest.raises(StackError, match="refresh"):
        reader.read_tensors(ADAPTER)
    teach(stack, "medicine", size=41)  # another file of that name
    with pytest.raises(StackError, match="refresh"):
        reader.read_tensors(ADAPTER)
    reader.refresh()
    assert reader.read_tensors(ADAPTER)["a"].shape == (41, 4)


def test_path_of_gives_a_verified_folder(stack):
    folder = stack.path_of("adapters/medicine")
    assert sorted(each.name for each in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(StackCorruptError):
        stack.path_of("adapters/medicine")


def test_values_are_frozen_and_closed(base):
    with pytest.raises(ValueError, match="frozen"):
        base.name = "other"
    with pytest.raises(ValueError, match="extra"):
        BaseReference.model_validate({**base.model_dump(), "more": 1})
    assert "domain" in dir(Manifest)


def test_errors_say_where_and_what_next(stack):
    (stack.root / ADAPTER).write_bytes(b"")
    with pytest.raises(CrmaError) as caught:
        stack.read_tensors(ADAPTER)
    for part in (ADAPTER, "expected: ", "got: 0 bytes", "next step: "):
        assert part in str(caught.value)


def test_arrays_come_back_writable_and_exact(stack):
    array = stack.read_tensors(ADAPTER)["a"]
    array += 1
    assert not np.array_equal(array, stack.read_tensors(ADAPTER)["a"])
