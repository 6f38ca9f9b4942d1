"""Everything that can be told to a person in one line.

    ExpungeError                 exit code 1
    ├── UsageError               2: bad input, a wrong setting
    │   ├── InputError              the file: names file and line
    │   ├── SettingsError           a variable: names it, its value (unless secret) and what it should be
    │   ├── FormatError             a report of this format cannot be made: says which can
    │   ├── RoomError               there is no room for a temporary file
    │   └── UnreachableError        Redis or the upstream: names the address and what to check
    ├── RefusedError             4: a guard said no; nothing was done
    ├── StoreError               1: the store failed in mid-work
    └── UnwrittenError           1: the batch is as it is, and its report could not be written: says how to write it

"There is no such customer" and the like are outcomes, not exceptions.
"""

from collections.abc import Sequence
from enum import StrEnum


class Guard(StrEnum):
    """Which guard refused; the audit trail has these words."""

    CONFIRMATION = "confirmation"
    SIZE = "size"
    REPEAT = "repeat"
    REFERENCE = "reference"
    IDENTITY = "identity"
    ROLE = "role"
    APPROVAL = "approval"
    HOLD = "hold"
    BRAKE = "brake"
    STATE = "state"
    RULE = "rule"
    """Any other."""


class ExpungeError(Exception):
    """Its text is one line for a person: what is wrong, where, what to do."""

    exit_code = 1


class UsageError(ExpungeError):
    """Bad input or a wrong setting; nothing was done."""

    exit_code = 2


class InputError(UsageError):
    """The input file cannot be taken."""

    def __init__(self, source: str, problem: str, line: int | None = None, columns: Sequence[str] = ()) -> None:
        """``columns`` are those that the file has, where another one was asked for."""
        super().__init__(f"{source}: {problem}" if line is None else f"{source}, line {line}: {problem}")
        self.line = line
        self.problem = problem
        self.columns = tuple(columns)


class SettingsError(UsageError):
    """A setting has a wrong value."""


class FormatError(UsageError):
    """A report cannot be made in the format that was asked for: a library is missing, or the rows do not fit."""


class RoomError(UsageError):
    """A temporary file cannot be written."""


class UnreachableError(UsageError):
    """Redis or the upstream cannot be used as it is configured."""


class RefusedError(ExpungeError):
    """A guard refused; nothing was done."""

    exit_code = 4

    def __init__(self, message: str, guard: Guard = Guard.RULE, batch_id: str | None = None) -> None:
        super().__init__(message)
        self.guard = guard
        self.batch_id = batch_id
        """The batch that it concerns, where the command named none."""


class StoreError(ExpungeError):
    """The results store failed; what was acknowledged before stands."""


class UnwrittenError(ExpungeError):
    """A batch's report could not be written; the batch is as it is."""
