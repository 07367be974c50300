"""The public names are sorted, all there, and documented."""

from __future__ import annotations

import crma


def test_the_public_names_are_sorted_and_resolve():
    assert crma.__all__ == sorted(crma.__all__)
    for name in crma.__all__:
        assert getattr(crma, name).__doc__
    assert dir(crma) == sorted(crma.__all__)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(crma, "Nothing")
