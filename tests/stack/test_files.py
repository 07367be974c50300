"""Bytes are deterministic, and what was cut or garbled is never taken for a value."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crma.errors import StackCorruptError, StackError, StackWriteError
from crma.stack import files

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(7, dtype=np.int64),
    "c": np.zeros((0, 4), dtype=np.float16),
    "d": np.array([True, False]),
}
METADATA = {"format": "np", "x": "1", "w": "é", "y": "3", "z": "4"}


def test_tensors_come_back_as_they_were(tmp_path):
    record = files.write_tensors(tmp_path / "x.safetensors", TENSORS, METADATA)
    read = files.read_tensors(tmp_path / "x.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(read[name], array)
    assert record.sha256 == files.sha256_of(tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_other_readers_understand_the_file(tmp_path):
    from safetensors import safe_open

    files.write_tensors(tmp_path / "x.safetensors", TENSORS, METADATA)
    with safe_open(tmp_path / "x.safetensors", framework="np") as opened:
        assert opened.metadata() == METADATA
        assert np.array_equal(opened.get_tensor("b"), TENSORS["b"])


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10.0)[::2],
        np.arange(10.0)[::-1],
        np.broadcast_to(np.float32(3), (2, 2)),
        np.arange(3, dtype=">f4"),
    ],
)
def test_an_array_is_written_by_value_however_its_memory_lies(array):
    read = files.parse_tensors(files.Path("x"), files.encode_tensors({"x": array}))["x"]
    assert np.array_equal(read, array)


def test_equal_tensors_are_equal_bytes_in_every_process():
    code = (
        "import hashlib, numpy as np; from crma.stack.files import encode_tensors as e; m = {k: k for k in 'zyxwv'};"
        "print(hashlib.sha256(e({'b': np.ones(3), 'a': np.zeros(2, 'f4')}, m)).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True) for _ in range(2)]
    arrays = {"a": np.zeros(2, "f4"), "b": np.ones(3)}
    here = files.record_of(files.encode_tensors(arrays, {k: k for k in "vwxyz"})).sha256
    assert {run.stdout.strip() for run in runs} == {here}


def test_what_could_not_be_read_back_is_not_written():
    with pytest.raises(TypeError, match="complex128"):
        files.encode_tensors({"x": np.zeros(2, dtype=np.complex128)})
    with pytest.raises(ValueError, match="JSON"):
        files.encode_json({"loss": float("nan")})


def test_lines_hold_any_text():
    rows = [{"text": text} for text in ("a\nb", "\u2028", "\ud800", "文", "\0")]
    assert files.parse_lines(files.Path("x"), files.encode_lines(rows)) == rows
    assert files.parse_lines(files.Path("x"), b"") == []


@given(cut=st.integers(min_value=0, max_value=10_000))
def test_cut_tensors_are_corrupt(cut):
    data = files.encode_tensors(TENSORS, METADATA)
    with pytest.raises(StackCorruptError):
        files.parse_tensors(files.Path("x"), data[: cut % len(data)])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_garbled_tensors_raise_nothing_else(changes):
    data = bytearray(files.encode_tensors(TENSORS, METADATA))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        read = files.parse_tensors(files.Path("x"), bytes(data))
    except StackCorruptError:
        return
    assert all(isinstance(array, np.ndarray) for array in read.values())


@given(data=st.binary(max_size=40))
def test_garbled_json_raises_nothing_else(data):
    for parse in (files.parse_json, files.parse_lines):
        try:
            parse(files.Path("x"), data)
        except StackCorruptError:
            continue
        json.loads(data or b"null") if parse is files.parse_json else None


def test_deep_json_is_corrupt_not_a_crash():
    with pytest.raises(StackCorruptError):
        files.parse_json(files.Path("x"), b"[" * 200_000)


def test_missing_and_unreadable_are_told_apart(tmp_path, monkeypatch):
    with pytest.raises(StackCorruptError, match="missing"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("{}")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.Path, "read_bytes", refuse)
    with pytest.raises(StackError, match="cannot be read") as caught:
        files.read_json(tmp_path / "x.json")
    assert not isinstance(caught.value, StackCorruptError)


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:7]))
    files.write_bytes_atomic(tmp_path / "x", b"0123456789" * 10)
    assert (tmp_path / "x").read_bytes() == b"0123456789" * 10


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_refused_write_says_so_and_leaves_the_old_file(tmp_path, monkeypatch, code, call):
    (tmp_path / "x").write_bytes(b"old")

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(StackWriteError) as caught:
        files.write_bytes_atomic(tmp_path / "x", b"newer")
    monkeypatch.undo()
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]
    said = str(caught.value)
    for part in (
        str(tmp_path / "x"),
        "5 bytes needed",
        "bytes free",
        "nothing was changed",
        "next step",
        errno.errorcode[code],
    ):
        assert part in said
