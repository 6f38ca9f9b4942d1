"""Logging: one line an event on stderr, without customer IDs, replies or secrets (SPEC 4, promise 8)."""

import logging
import sys
import traceback

import structlog


def configure(level: str) -> None:
    """Set up structlog and the libraries' loggers for this process.

    Libraries speak from warnings upwards at any level of ours: at debug they would print requests and replies.
    """
    numeric = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s", force=True
    )
    logging.getLogger("celery").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def where(error: BaseException) -> str:
    """What an unforeseen error is and where it was raised, without its text, which may hold what must not be shown."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    inner = "".join(f" ({where(part)})" for part in getattr(error, "exceptions", ()))
    return " < ".join([type(error).__name__, *(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))]) + inner
