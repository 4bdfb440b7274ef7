"""The few errors a person can meet, and what their messages are made of: what was expected, what came, where, what to do."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class CxrEvalError(Exception):
    """Base of every error that is the user's to mend; the command line prints it and exits with `exit_code`."""

    exit_code = 2


class ProtocolError(CxrEvalError):
    """A protocol cannot be run as written; the message starts with `file:line:`."""


class PluginError(CxrEvalError):
    """A plugin is unknown, clashes with another, cannot be imported, or was given settings that it does not have."""


class DataError(CxrEvalError):
    """A dataset on disk is not what its reader expects; the message names file and row."""


class DeviceError(CxrEvalError):
    """A device was asked for that this machine does not have."""


class RunError(CxrEvalError):
    """A run folder cannot be read or written as a run."""


class TrainingError(CxrEvalError):
    """One cell cannot be trained (a loss that is NaN, say); the other cells go on."""

    exit_code = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the most similar known name, or nothing."""
    known = list(known)
    folded = {candidate.casefold(): candidate for candidate in known}
    # written out (`epsilon` for `eps`) is more than similar (`eps_min`)
    short = [candidate for candidate in folded if len(candidate) >= 3 and name.casefold().startswith(candidate)]
    close = [max(short, key=len)] if short else difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean '{folded[close[0]]}'?" if close else ""


def raised_at(error: BaseException) -> str:
    """`file.py:12: `, the last line of neither this package nor a library that an error went through, or nothing."""
    ours = str(Path(__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".py")]
    theirs = [frame for frame in frames if not frame.filename.startswith(ours) and "site-packages" not in frame.filename]
    return f"{Path(theirs[-1].filename).name}:{theirs[-1].lineno}: " if theirs else ""
