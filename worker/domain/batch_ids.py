"""Batch IDs: 13 letters and digits that sort by time of creation, eight bytes where they are packed."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letter that is mistaken for a digit
_VALUE = {letter: value for value, letter in enumerate(_ALPHABET)}
_LENGTH = 13
_RANDOM_BITS = 22


def make_batch_id(now: float, randomness: int) -> str:
    """An ID from seconds since the epoch and any random number, of which 22 bits are used."""
    number = int(now * 1000) << _RANDOM_BITS | randomness & ((1 << _RANDOM_BITS) - 1)
    letters = []
    for _ in range(_LENGTH):
        number, value = divmod(number, 32)
        letters.append(_ALPHABET[value])
    return "".join(reversed(letters))


def is_batch_id(text: str) -> bool:
    """Whether the text could be one."""
    return len(text) == _LENGTH and all(letter in _VALUE for letter in text) and text[0] in _ALPHABET[:16]


def made_at(batch_id: str) -> float:
    """When it was made, seconds since the epoch."""
    return (int.from_bytes(pack_batch_id(batch_id), "big") >> _RANDOM_BITS) / 1000


def pack_batch_id(batch_id: str) -> bytes:
    """Eight bytes."""
    number = 0
    for letter in batch_id:
        number = number * 32 + _VALUE[letter]
    return number.to_bytes(8, "big")


def unpack_batch_id(packed: bytes) -> str:
    """The inverse of ``pack_batch_id``."""
    number = int.from_bytes(packed, "big")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_LENGTH)))
