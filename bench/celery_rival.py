"""What a user would write instead of Expunge: one Celery task a customer.

Written as well as a page of documentation teaches it: one client a process with room for every thread, late acks, no
result backend, the outcome as a JSON string in Redis. No retry, no limit, no report, no tally.
"""

import os

import httpx
import redis
from celery import Celery

app = Celery("rival", broker=os.environ.get("RIVAL_BROKER"))
app.conf.update(task_acks_late=True, task_ignore_result=True, worker_send_task_events=False)

client = httpx.Client(
    base_url=os.environ.get("RIVAL_UPSTREAM", ""),
    headers={"X-Merchant-Identifier-Id": "bench", "X-Type": "sandbox"},
    timeout=10,
    limits=httpx.Limits(max_connections=100, max_keepalive_connections=100),
)
results = redis.Redis.from_url(os.environ.get("RIVAL_REDIS", "redis://"))


@app.task(name="rival.delete_customer")
def delete_customer(customer_id: str) -> None:
    """Delete one customer and note what the endpoint said."""
    response = client.delete(f"/customer/customer/{customer_id}")
    response.raise_for_status()
    reply = response.json()
    outcome = "deleted" if reply["status"] and reply["data"]["success"] else "failed"
    results.set(f"result:{customer_id}", f'{{"outcome":"{outcome}","request_id":"{reply["data"]["request_id"]}"}}')
