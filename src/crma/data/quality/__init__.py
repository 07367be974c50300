"""What is wrong with a data set, why it matters, and what to do: checks of rows, and repairs that can be undone."""

from importlib.util import find_spec

from crma.errors import ConfigError

_missing = [name for name in ("datasketch", "ftfy", "phonenumbers", "py3langid", "stdnum") if find_spec(name) is None]
if _missing:
    raise ConfigError(
        "the data check needs packages that are not installed",
        expected="the extra 'quality'",
        got=f"no {', '.join(_missing)}",
        next_step="from CRMA's folder: pip install -e '.[quality]'",
    )
