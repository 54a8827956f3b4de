"""`tilth cache`: the on-disk cache of compiled models."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from tilth.cli.console import out
from tilth.runtime.cache import CacheInfo, default_cache
from tilth.runtime.render import bytes_text


class Action(StrEnum):
    """What to do with the cache."""

    info = "info"
    clear = "clear"


def cache(action: Annotated[Action, typer.Argument()] = Action.info) -> None:
    """Show how full the cache of compiled models is, or empty it."""
    store = default_cache()
    if store is None:
        out.print("the cache is turned off (TILTH_CACHE=0)")
    elif action is Action.clear:
        out.print(f"deleted {_contents(store.clear())}")
    else:
        info = store.info()
        out.print(f"{info.root}: {_contents(info)}, bound {bytes_text(info.limit)}", soft_wrap=True)


def _contents(info: CacheInfo) -> str:
    return f"{info.entries} entr{'y' if info.entries == 1 else 'ies'}, {bytes_text(info.nbytes)}"
