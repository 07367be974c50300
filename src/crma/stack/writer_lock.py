"""One writer a stack: an operating system's lock, which dies with its holder, and a note of who that is."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import filelock

from crma.errors import StackError, StackLockedError, StackWriteError
from crma.stack import files
from crma.stack.layout import HOLDER, LOCK, timestamp

__all__ = ["WriterLock"]


class WriterLock:
    """Held once a process, however often it is acquired there; let go of by as many releases."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._begin()

    def _begin(self) -> None:
        self._guard = threading.Lock()
        self._pid = os.getpid()
        self._depth = 0
        self._lock: filelock.BaseFileLock | None = None

    def acquire(self, *, timeout: float) -> None:
        if self._pid != os.getpid():  # a forked child does not hold what its parent holds
            self._begin()
        with self._guard:
            if self._depth == 0:
                self._take(timeout)
            self._depth += 1

    def release(self) -> None:
        with self._guard:
            self._depth -= 1
            if self._depth == 0 and self._lock is not None and self._pid == os.getpid():
                with contextlib.suppress(OSError):
                    os.unlink(self._root / HOLDER)
                self._lock.release()
                self._lock = None

    def _take(self, timeout: float) -> None:
        lock = filelock.FileLock(self._root / LOCK, thread_local=False)
        try:
            # Negative means for ever to us; filelock takes that for a sure deadlock where this process is the holder.
            lock.acquire(timeout=timeout if timeout >= 0 else threading.TIMEOUT_MAX)
        except filelock.Timeout:
            raise self._locked(timeout) from None
        except OSError as error:
            raise files.write_refused(self._root / LOCK, error) from error
        self._lock = lock
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": timestamp()}
        with contextlib.suppress(StackWriteError):  # a courtesy to others: not worth failing for on a full disk
            files.write_json(self._root / HOLDER, holder)

    def _locked(self, timeout: float) -> StackLockedError:
        try:
            holder = files.read_json(self._root / HOLDER)
            who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
            if holder["pid"] == os.getpid() and holder["host"] == socket.gethostname():
                who += " (this process, through another Stack object)"
        except (StackError, KeyError, TypeError):
            who = "a process that has not said which"
        return StackLockedError(
            "another writer has this stack" + (f"; waited {timeout:g} s" if timeout > 0 else ""),
            where=self._root,
            got=who,
            next_step="wait for it, or end that process: its lock goes with it",
        )
