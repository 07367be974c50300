"""The command line: thin commands over `ContinualModel` and the benchmark."""

from crma.cli.commands import app

__all__ = ["app", "main"]


def main() -> None:
    app()
