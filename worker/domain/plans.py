"""A plan (SPEC 6): what a submission would do, and the ID by which somebody says that they have seen it."""

import hashlib
import re

from worker.domain.batches import Target

_ID = re.compile(r"plan-[0-9a-f]{16}")


def plan_id(sha256: str, target: Target, id_column: str) -> str:
    """Names what would be deleted: another file, merchant, environment or column of IDs has another.

    The same wherever and whenever it is made, so that it need not be kept.
    """
    bound = "\0".join((sha256, target.environment, target.merchant, id_column))
    return f"plan-{hashlib.sha256(bound.encode()).hexdigest()[:16]}"


def is_plan_id(text: str) -> bool:
    """Whether it has the form of a plan's ID."""
    return _ID.fullmatch(text) is not None


def confirms(text: str, records: int, plan: str) -> bool:
    """Whether a number of records, or the ID of a plan, is this one; raises ``ValueError`` when it is neither."""
    word = text.strip()
    if is_plan_id(word):
        return word == plan
    if word.isascii() and word.isdigit():
        return int(word) == records
    raise ValueError(f"'{word[:40]}' is neither a number of records nor a plan's ID as `expunge plan` prints it")
