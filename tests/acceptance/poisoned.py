"""``python -m tests.acceptance.poisoned PROCESSES``: workers that die whenever a customer is about to be deleted.

Everything else is as ``tasks.app`` has it, but that a lease is short and what is due is looked for often.
"""

import os
import signal
import sys

from tasks.__main__ import main
from worker.pipeline import reconcile, shard_run
from worker.store import shards
from worker.upstream.client import Client
from worker.upstream.reply import NoReply, Reply

DEADLY = "TEST_DEADLY_CUSTOMER"
"""The variable that names the customer."""

for module in (shards, shard_run):
    vars(module)["LEASE"] = 2.0
shards.MESSAGE_LIFE = 2.0
reconcile.EVERY = 0.5
_send = Client.delete


async def _send_or_die(self: Client, customer_id: str, idempotency_key: str) -> Reply | NoReply:
    if customer_id == os.environ[DEADLY]:
        os.kill(os.getpid(), signal.SIGKILL)
    return await _send(self, customer_id, idempotency_key)


Client.delete = _send_or_die  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
