"""Who sent a body: it is signed by Standard Webhooks, with a secret that its sender and this process share."""

from collections.abc import Iterable
from typing import Final

from standardwebhooks import Webhook, WebhookVerificationError
from starlette.datastructures import Headers

from worker.web.problems import Kind, Problem

ID: Final = "webhook-id"
HEADERS: Final = (ID, "webhook-timestamp", "webhook-signature")
_CHALLENGE = {"WWW-Authenticate": "StandardWebhooks"}


class Signatures:
    """Checks bodies by any of several secrets, so that one can be replaced while both are in use."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._webhooks = [Webhook(secret) for secret in secrets]

    def __bool__(self) -> bool:
        """Whether there is any secret."""
        return bool(self._webhooks)

    @staticmethod
    def refuse_unsigned(headers: Headers) -> None:
        """Raise ``Problem`` for what cannot be signed, whatever its body is."""
        if any(len(headers.getlist(name)) != 1 or not headers[name] for name in HEADERS):
            raise unsigned(f"sign the body by Standard Webhooks: it takes each of {', '.join(HEADERS)} once")

    def check(self, headers: Headers, body: bytes) -> None:
        """Raise ``Problem`` unless somebody with one of the secrets signed the body, within five minutes from now."""
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise unsigned("the body is no UTF-8, so its signature cannot be checked") from None
        said = {name: headers[name] for name in HEADERS}
        if not any(_signed(webhook, said, text) for webhook in self._webhooks):
            raise unsigned("the signature is of none of EXPUNGE_EVENT_SECRETS, or of another body, ID or time stamp")


def unsigned(detail: str) -> Problem:
    """What is refused because nobody is known to have signed it."""
    return Problem(Kind.SIGNATURE, detail, headers=_CHALLENGE)


def _signed(webhook: Webhook, headers: dict[str, str], body: str) -> bool:
    """Whether a secret fits; the package raises ``ValueError`` for what looks like no signature at all."""
    try:
        webhook.verify(body, headers, json_parse=False)
    except WebhookVerificationError as error:
        if "timestamp" in str(error):
            raise unsigned("the time stamp is more than five minutes from now: look at the sender's clock") from None
        return False
    except ValueError:
        return False
    return True
