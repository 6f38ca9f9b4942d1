"""A repair of kombu's Redis transport: a message whose acknowledgement failed is not one that is still worked on.

kombu counts it as such for ever. A worker that was busy while Redis was away then takes no message again: it listens
only while it has fewer of them than processes, and so does not even notice that its connection is gone.
"""

from kombu.transport import redis, virtual


class _QoS(redis.QoS):
    """Which messages this worker has in hand."""

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge. What Redis could not be told is delivered once more, and finds its shard done."""
        try:
            super().ack(delivery_tag)
        finally:
            virtual.QoS.ack(self, delivery_tag)


def repair() -> None:
    """For all channels of this process, Sentinel's too."""
    redis.Channel.QoS = _QoS
