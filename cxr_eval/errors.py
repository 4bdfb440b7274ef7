"""The few errors a person can meet; each message is one line that says what was expected, what came, where, what to do."""


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
