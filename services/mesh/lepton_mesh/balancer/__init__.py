"""A channel over all instances of a service, for generated stubs.

Python's gRPC takes no resolver or balancer of one's own, and its core neither
hedges nor counts requests in flight. So there is one channel per instance,
driven by the directory; a call goes to the better of two that are picked at
random among those that are connected (power of two choices: Mitzenmacher 2001),
better meaning fewer calls in flight times the latency seen lately (peak EWMA,
as in Finagle). Failing instances are left alone for a while, calls that may be
repeated are, within a budget (gRPC A6), and slow reads are hedged.
"""

from lepton_mesh.balancer.channel import BalancedChannel
from lepton_mesh.balancer.limits import RetryBudget

__all__ = ["BalancedChannel", "RetryBudget"]
