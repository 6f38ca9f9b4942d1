"""The spreadsheet guard (SPEC 9): no cell of a report may run as a formula when somebody opens it.

Shared by the reports, which put the guard on, and the intake, which takes it off a report that is fed back.
"""

import re

_WOULD_RUN = re.compile(r"'*[=+\-@\t\r]")
_GUARDED = re.compile(r"'+[=+\-@\t\r]")
_WORTH_A_LOOK = frozenset("'=+-@\t\r")


def guard(cell: str) -> str:
    """The cell with one ``'`` before it if it begins with ``= + - @``, tab or CR, or looks guarded already.

    The latter makes it lossless: ``unguard(guard(cell)) == cell`` for every cell.
    """
    if cell and cell[0] in _WORTH_A_LOOK and _WOULD_RUN.match(cell):
        return "'" + cell
    return cell


def unguard(cell: str) -> str:
    """The cell without its guard; a cell that has none comes back as it is."""
    if cell and cell[0] == "'" and _GUARDED.match(cell):
        return cell[1:]
    return cell
