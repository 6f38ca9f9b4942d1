"""What the API says of its fields and of settings, in the words that the pages have for them."""

import re

_WORDS = (
    (r", look at the plan, then add .*", ", type their number"),
    (r"; look at the plan, then .*", ""),
    (r"`confirm`: ('.*?') is neither .*", r"\1 is no number of records: write it in digits alone"),
    (r"`column`", "the field “Column that holds the customer IDs”"),
    (r"`again` submits it once more", "tick “Submit it once more” to do so"),
    (r"add `replace`", "tick “Give holds that stand already this ground and end”"),
    (r"`ground`", "the field “Ground”"),
    (r"`until`", "the field “Last day”"),
    (r", or send it as the field `file`", ""),
    (r": `/v1/openapi.json` (says what is taken|has those of the API)", ""),
    (r": `Allow` names those that are", ""),
    (r"raise EXPUNGE_MAX_BATCH", "ask whoever runs Expunge for a higher limit"),
    (r"as EXPUNGE_ID_PATTERN demands", "of the form that customer IDs have here"),
    (
        r"^query\.(.{1,40}?) is wrong, .*",
        r"the address has a “\1” that this page cannot take: open the page anew from the menu",
    ),
    (r"`POST /v1/batches/\{batch_id\}/retry`", "“Send again”"),
    (r"`POST /v1/batches/\w+/resume` without `despite`", "“Resume”"),
    (r"`GET /v1/batches` shows", "the list of batches shows"),
    (r"`despite` (\w+)", r"“\1”"),
    (r"(after|before): must be `next` of another page", "the address is of no page of this list: begin at its first"),
    (r"show a token: `Authorization: Bearer expunge_...`, or sign in on the page", "sign in with your token"),
)
_PATTERNS = tuple((re.compile(pattern, re.DOTALL), words) for pattern, words in _WORDS)


def on_page(text: str) -> str:
    """The text for somebody who has a page before them, and no parameters, options or settings."""
    for pattern, words in _PATTERNS:
        text = pattern.sub(words, text)
    return text


def sentence(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]
