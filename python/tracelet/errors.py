"""The exceptions that tracelet raises of its own.

Arguments of a wrong type or value raise ``TypeError`` and ``ValueError`` as usual.
"""

from __future__ import annotations


class TraceletError(Exception):
    """Base of tracelet's own exceptions."""


class ConfigurationError(TraceletError, ValueError):
    """An option, a ``config`` key or an environment variable that can't be used."""


class OptionTypeError(ConfigurationError, TypeError):
    """An option of a wrong type: a TypeError too, as Python's own would be."""


class UnknownBackendError(ConfigurationError):
    """A backend's name that no sink was registered under."""


class CredentialsError(TraceletError):
    """A backend needs credentials and found none."""


class BackendError(TraceletError):
    """A backend could not be started."""


class NotTakenError(TraceletError):
    """A backend has no form for what was logged; the message is the reason, for `stats`."""


class LeaseError(TraceletError, BufferError):
    """A batch's records were used after its sink's ``write`` had returned."""


class SinkUnavailableError(TraceletError):
    """A sink could not take a batch now; the same batch may be given again later.

    `retry_after_s`: not before so many seconds, because the backend asks for it.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class JournalError(TraceletError):
    """A journal on disk can't be read: damaged, or written by another version."""


class WrongTypeError(TypeError, ValueError, NotImplementedError, AssertionError):
    """An argument of a wrong type in a method of SummaryWriter: also what torch's own raises."""


class WrongValueError(ValueError, AssertionError, OverflowError):
    """An argument of a wrong value in a method of SummaryWriter: also what torch's own raises."""
