"""What a user can run into: a message, a slug to look up in ``docs/messages.md``, an exit code, and what to do."""

import errno as _errno


class BranchmonError(Exception):
    """An error the user can act on; the command line prints it without a traceback.

    :param message: what happened, one sentence without a final stop.
    :param slug: short stable name of the case, a heading of ``docs/messages.md``.
    :param remedy: what to do about it; may name a command. Empty if there is nothing to do.
    :param exit_code: status of the ``branchmon`` command, 1-255.
    """

    default_exit_code = 1

    def __init__(self, message: str, *, slug: str, remedy: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.slug = slug
        self.remedy = remedy
        self.exit_code = self.default_exit_code if exit_code is None else exit_code


class UsageError(BranchmonError):
    """The command line or a profile asks for something that does not exist (exit code 2)."""

    default_exit_code = 2


class TargetError(BranchmonError):
    """The program cannot be started or attached to (126 not executable, 127 not found, else 1)."""


class UnsupportedError(BranchmonError):
    """This machine, kernel or source cannot do what was asked (exit code 3)."""

    default_exit_code = 3


class OutputError(BranchmonError):
    """The result could not be written (exit code 4)."""

    default_exit_code = 4


class PerfError(OSError):
    """A refusal of the driver, as the system call reports it: an errno and, for people, why.

    :param number: the errno, e.g. ``errno.EBUSY``.
    :param why: one sentence for people.
    :param slug: as in :class:`BranchmonError`.
    """

    def __init__(self, number: int, why: str, *, slug: str) -> None:
        super().__init__(number, why)
        self.slug = slug

    @property
    def name(self) -> str:
        """The errno's name, ``EBUSY``."""
        return _errno.errorcode.get(self.errno or 0, str(self.errno))
