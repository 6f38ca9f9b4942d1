"""What keeps a duty from being done is told once, however often it is tried."""

import asyncio

import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import NoPermissionError
from structlog.testing import capture_logs

from worker.pipeline.duties import Trouble


def test_an_outage_is_told_once_of_each_kind_and_so_is_its_end() -> None:
    trouble = Trouble("reconciler", host="h")
    with capture_logs() as told:
        trouble.over()
        for error in (RedisAway("1"), RedisAway("2"), NoPermissionError("3"), RedisAway("4"), OperationalError("5")):
            with trouble:
                raise error
        trouble.over()
        trouble.over()
        with trouble:
            raise RedisAway("6")
    assert [(line["log_level"], line["event"], line.get("error")) for line in told] == [
        ("warning", "waits for Redis", "ConnectionError"),
        ("warning", "waits for Redis", "NoPermissionError"),
        ("warning", "waits for Redis", "OperationalError"),
        ("info", "goes on", None),
        ("warning", "waits for Redis", "ConnectionError"),
    ]
    assert all((line["duty"], line["host"]) == ("reconciler", "h") for line in told)


def test_an_error_that_nobody_foresaw_is_told_by_its_place_without_its_text() -> None:
    trouble = Trouble("reconciler")
    with capture_logs() as told:
        for _ in range(3):
            with trouble:
                raise KeyError("customer-1")
    (line,) = told
    assert (line["log_level"], line["event"]) == ("error", "failed")
    assert line["error"].startswith("KeyError < test_an_error_that_nobody_foresaw")
    assert "customer-1" not in repr(told)


async def test_a_duty_that_is_cancelled_ends() -> None:
    trouble = Trouble("reconciler")
    with pytest.raises(asyncio.CancelledError), trouble:
        raise asyncio.CancelledError
