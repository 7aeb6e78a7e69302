"""The errors a user meets: each says what was given, what is allowed, and what to do.

Bad arguments of a constructor raise the built-in ``ValueError``; what goes wrong while training raises one of these.
"""


class GradcodeError(Exception):
    """Base of every error that training raises; the command line prints it without a traceback."""


class ConfigError(GradcodeError):
    """A configuration file, key or value cannot be used."""


class WorkerError(GradcodeError):
    """A worker's own code raised, or a worker could not start; the message holds its number and traceback."""


class Shortfall(GradcodeError):  # noqa: N818 -- the word of the design, and what ``on_shortfall`` speaks of
    """Too few workers are left to finish the iteration, and none is coming back."""


class NonFiniteLoss(GradcodeError):  # noqa: N818 -- names the finding, as FloatingPointError does
    """The loss or the gradient of an iteration is NaN or infinite; no parameter was changed by it."""


class Contradiction(GradcodeError):  # noqa: N818 -- names the finding
    """Replies contradict one another so that no gradient is certain; no parameter was changed by it."""


class CheckpointError(GradcodeError):
    """A checkpoint cannot be written, or the file is not one of this run's."""


class PlatformError(GradcodeError):
    """The operating system lacks what gradcode needs."""


class GradcodeWarning(UserWarning):
    """Something a user should know and may accept."""
