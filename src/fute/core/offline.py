"""`--offline`: this process opens no network socket."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from fute.core.errors import ModelError

_INTERNET = (socket.AF_INET, socket.AF_INET6)
_state = {"on": False, "hooked": False}


def go_offline(on: bool = True) -> None:
    """From now on, opening an internet socket or looking up a host's name raises `ModelError`; libraries are
    told not to try. Python's own audit events see each socket that Python opens, whichever library asks for
    it.
    """
    _state["on"] = on
    if on:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if on and not _state["hooked"]:
        sys.addaudithook(_refuse)  # a hook can't be taken off again: it looks at the switch
        _state["hooked"] = True


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not _state["on"] or not event.startswith("socket."):
        return
    opens = event == "socket.__new__" and arguments[1] in _INTERNET
    if opens or event in ("socket.getaddrinfo", "socket.gethostbyname"):
        raise ModelError(
            "something tried to open a connection, and `--offline` forbids it",
            found=f"{event}{arguments[1:] if opens else arguments[:2]}",
            fix="run without --offline, or use what is on this machine only",
        )
