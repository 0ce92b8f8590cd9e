"""Trackio for the package's commands: whose store a journal's rows go to."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import ClassVar

from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.trackio import FOLDER_VARIABLE, INSTALL, TrackioTracker


class TrackioBackend(Backend):
    """See `TrackioTracker`."""

    kind = TrackioTracker
    title: ClassVar[str] = "Trackio"
    packages: ClassVar[tuple[str, ...]] = ("trackio",)
    install: ClassVar[str] = INSTALL
    callback: ClassVar[str] = "TrackioCallback"

    def is_open(self) -> bool:
        trackio = sys.modules.get("trackio")
        return trackio is not None and trackio.context_vars.current_run.get() is not None

    def approved(
        self, to: Mapping[str, str], arguments: argparse.Namespace
    ) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Only the store that this user's environment names: it gets their token, or files of theirs."""
        import trackio

        if "url" not in to:
            ours, variable, named = str(trackio.utils.TRACKIO_DIR.absolute()), FOLDER_VARIABLE, to.get("folder", "")
            secrets: dict[str, str] = {}
        else:
            is_server, named = "://" in to["url"], to["url"]
            variable = "TRACKIO_SERVER_URL" if is_server else "TRACKIO_SPACE_ID"
            ours, token = trackio.utils.parse_trackio_server_url(os.environ.get(variable, ""))
            token = token or os.environ.get("TRACKIO_WRITE_TOKEN")
            secrets = {"write_token": token} if is_server and token else {}
        if ours != named:
            raise PermissionError(f"it is for {named!r}, which is not your Trackio; {variable}={named} sends it there")
        return to, secrets
