"""What a forked child forgets: connections belong to the process that opened them."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgetful(Protocol):
    """Drops, in a forked child, what belongs to its parent; touches no socket the parent uses."""

    def forget(self) -> None: ...


_alive: weakref.WeakSet[Forgetful] = weakref.WeakSet()
_registered = False


def forget_after_fork(holder: Forgetful) -> None:
    """Have ``holder.forget()`` called in every child forked from now on, while it lives."""
    global _registered
    if not _registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_all)
        _registered = True
    _alive.add(holder)


def _forget_all() -> None:
    for holder in list(_alive):
        holder.forget()
