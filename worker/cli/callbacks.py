"""``expunge events test-callback``: whether the callback addresses take what they are told."""

import asyncio
import secrets
import time
from typing import Annotated, Any

import typer

from worker.callbacks.client import Answer, open_poster
from worker.callbacks.message import Signer, envelope
from worker.cli import session
from worker.cli.output import emit
from worker.domain.callbacks import PRIVATE, Callback
from worker.domain.errors import SettingsError, UsageError
from worker.reports.columns import rfc3339
from worker.settings import Settings, load_settings

KIND = "callback.test"


def try_callbacks(
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Only the address of this host.")] = None,
    json: session.Json = False,
) -> None:
    """Send a signed test event to each callback address. Exit code 2 if one does not take it."""
    settings = load_settings()
    chosen = _chosen(settings, host)
    answers = asyncio.run(_ask(settings, chosen))
    if json:
        shown = [_as_json(callback, *answer) for callback, answer in zip(chosen, answers, strict=True)]
        emit({"callbacks": shown})
    else:
        for callback, (answer, seconds) in zip(chosen, answers, strict=True):
            typer.echo(_line(callback, answer, seconds))
    raise typer.Exit(0 if all(answer.taken for answer, _ in answers) else 2)


def _chosen(settings: Settings, host: str | None) -> list[Callback]:
    if not settings.callbacks:
        raise SettingsError("EXPUNGE_CALLBACK_URLS is not set, so nobody is told anything")
    chosen = [callback for callback in settings.callbacks if host in (None, callback.host)]
    if not chosen:
        hosts = ", ".join(dict.fromkeys(callback.host for callback in settings.callbacks))
        raise UsageError(f"--host: no callback goes to '{host}'; EXPUNGE_CALLBACK_URLS has: {hosts}")
    return chosen


async def _ask(settings: Settings, callbacks: list[Callback]) -> list[tuple[Answer, float]]:
    signer = Signer(settings.callback_keys)
    now = time.time()
    data = {"at": rfc3339(now), "environment": settings.environment.value, "merchant": settings.merchant_id}
    message = signer.sign(envelope(f"test-{secrets.token_hex(8)}", KIND, settings.target, now, data), now)
    async with open_poster(allow_private=settings.callback_allow_private) as poster:

        async def timed(callback: Callback) -> tuple[Answer, float]:
            began = time.monotonic()
            answer = await poster.post(callback, message)
            return answer, time.monotonic() - began

        return await asyncio.gather(*map(timed, callbacks))


def _as_json(callback: Callback, answer: Answer, seconds: float) -> dict[str, Any]:
    return {
        "host": callback.host,
        "ok": answer.taken,
        "status": answer.status,
        "seconds": round(seconds, 3),
        "problem": answer.problem or None,
        "next_step": advice(answer) or None,
    }


def _line(callback: Callback, answer: Answer, seconds: float) -> str:
    if answer.taken:
        return f"ok    {callback.host} answered {answer.status} after {seconds:.2f} s"
    return f"FAIL  {callback.host} {answer.problem} ({seconds:.2f} s): {advice(answer)}"


def advice(answer: Answer) -> str:
    """What to do about a callback that did not take an event."""
    match answer.status:
        case _ if answer.taken:
            return ""
        case None if answer.problem == PRIVATE:
            return "is it the address that is meant?"
        case None:
            return "check the address, and that the receiver runs and can be reached from here"
        case 401 | 403:
            return "the receiver must have one of EXPUNGE_CALLBACK_SECRETS, and a clock that is right"
        case 404 | 405:
            return "check the path in EXPUNGE_CALLBACK_URLS"
        case 410:
            return "the receiver wants no more: take it out of EXPUNGE_CALLBACK_URLS, or ask its owner"
        case status if status < 400:
            return "put the address it leads to into EXPUNGE_CALLBACK_URLS; a receiver must answer 2xx"
        case _:
            return "look into the receiver's log; it must answer 2xx"
