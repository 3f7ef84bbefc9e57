"""What every table of the configuration is made of."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
# What may hold a secret, with everything below it: it is never shown. `args` is that of mcpServers.
SECRET = frozenset({"args", "command", "env", "headers", "sha256", "url"})

Seconds = Annotated[float, Meta(gt=0, le=86_400 * 366)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Rate = Annotated[float, Meta(ge=0.001, le=1_000_000)]


def doc(text: str) -> Meta:
    """Say what a setting is for, in the words that docs/configuration.md shows."""
    return Meta(description=text)


class Section(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """A table of the file."""

    def __repr__(self) -> str:
        """Show everything but what may be secret."""
        shown = (
            f"{name}={'****' if name in SECRET else repr(getattr(self, name))}"
            for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({', '.join(shown)})"
