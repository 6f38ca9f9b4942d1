"""What is wrong with a customer ID, said without saying the ID.

A wrong one may be a name or an address (SPEC 4, promise 8).
"""

import string

_PLAIN = frozenset(string.ascii_letters + string.digits + "._~-")
_LONGEST = 128


def problem_of(customer_id: str) -> str:
    """The kind of problem of an ID that the rule does not accept, in a few words."""
    if not customer_id:
        return "empty"
    if len(customer_id) > _LONGEST:
        return f"too long ({len(customer_id)} characters)"
    for character in customer_id:
        if character not in _PLAIN:
            return _contains(character)
    return "not as EXPUNGE_ID_PATTERN demands"


def _contains(character: str) -> str:
    if character.isspace():
        return "contains a space"
    if character in string.punctuation:
        return f"contains '{character}'" if character != "'" else 'contains "\'"'
    if character.isalpha():
        return "contains a letter other than A-Z and a-z"
    return "contains a control character or symbol"
