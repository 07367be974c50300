"""The three ways of `crma learn`, and which of its options belong to which."""

from __future__ import annotations

from pathlib import Path

import typer

from crma.errors import ConfigError, DataError

__all__ = ["refuse_misplaced", "way_of"]

_NAMED, _AUTO, _STREAM = "DOMAIN and DATA", "--auto", "--stream"
_WAYS = {
    "extend": (_NAMED,),
    "check": (_NAMED, _AUTO),  # rows that are all there
    "plan": (_AUTO,),
    "least": (_AUTO, _STREAM),
    "false_alarms": (_AUTO, _STREAM),
    "increment": (_STREAM,),
    "idle": (_STREAM,),
}


def way_of(domain: str | None, data: Path | None, auto: Path | None, stream: str | None) -> str:
    """
    Raises:
        ConfigError: none of the three, or more than one.
        DataError: what is to be sorted is not there, or not what can be read so.
    """
    if (auto is not None) + (stream is not None) + (domain is not None) != 1 or (domain is None) != (data is None):
        raise ConfigError(
            "what is to be learnt is not clear",
            expected="DOMAIN and DATA, or --auto DATA, or --stream FILE",
            got=f"DOMAIN {domain}, DATA {data}, --auto {auto}, --stream {stream}",
            next_step="name the domain and its rows, or let --auto or --stream sort rows",
        )
    if auto is not None and not auto.exists():
        raise DataError("there is no such file", where=str(auto), next_step="give a file of rows")
    if stream is not None and stream != "-" and (not Path(stream).exists() or Path(stream).is_dir()):
        raise DataError(
            "this cannot be read as it grows",
            where=stream,
            expected="a file of JSON Lines, or - for standard input",
            got="a folder" if Path(stream).is_dir() else "no such file",
            next_step="name the file; a folder of rows can be given to --auto",
        )
    return _NAMED if domain is not None else _AUTO if auto is not None else _STREAM


def refuse_misplaced(way: str, context: typer.Context) -> None:
    """ConfigError: the command line has an option of another way, which would do nothing."""
    # By name: the enum is click's or, in newer versions, typer's own.
    sources = {name: context.get_parameter_source(name) for name in _WAYS}
    asked = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    misplaced = {f"--{name.replace('_', '-')}": _WAYS[name] for name in asked if way not in _WAYS[name]}
    if misplaced:
        raise ConfigError(
            "these options do not go together",
            expected="; ".join(f"{option} with {' or '.join(ways)}" for option, ways in misplaced.items()),
            got=f"{' '.join(misplaced)} with {way}",
            next_step="leave it out" if len(misplaced) == 1 else "leave them out",
        )
