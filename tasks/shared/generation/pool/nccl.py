"""Weights from GPU to GPU: broadcast from the trainer's first rank to every worker of every server, bucket by bucket.

vLLM's own transfer engine receives them. The group is made again whenever the set of servers has changed. A server
that dies during a broadcast breaks the group and the push. Nothing is kept: a server that starts later waits for the
next push.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import torch

from tasks.shared.contract.addresses import free_port
from tasks.shared.generation.pool.client import Client
from tasks.shared.generation.pool.members import Member, Pool
from tasks.shared.generation.pool.weights import BUCKET_BYTES, Call, buckets

NUM_BUFFERS = 2


class NcclTransfer:
    """Pushes weights to a pool whose servers have GPUs of their own."""

    def __init__(self, pool: Pool, call: Call, address: str) -> None:
        """`call` runs a coroutine in the pool's thread; `address`: this host's, as the servers reach it."""
        self._pool = pool
        self._call = call
        self._address = address
        self._group: Any = None
        self._urls: list[str] = []  # of the servers in the group

    def push(self, weights: Iterable[tuple[str, torch.Tensor]], version: str) -> None:
        """Give every server these weights under that name; running requests wait meanwhile and continue with them."""
        members: list[Member] = self._call(self._pool.pause_for_push())
        if [member.url for member in members] != self._urls:
            self._meet(members)
        self._call(self._pool.each(members, Client.start_transfer))
        for bucket in buckets(weights):
            self._send(members, bucket)
        self._call(self._pool.finish_push(members, version))

    def close(self) -> None:
        """Leave the group."""
        if self._group is not None:
            self._group.destroy()
            self._group = None

    def _meet(self, members: list[Member]) -> None:
        """Make the group: this process first, then each worker of each server."""
        from vllm.distributed.weight_transfer.nccl_common import trainer_init

        self.close()
        sizes: list[int] = self._call(self._pool.each(members, Client.num_workers))
        place = {"master_address": self._address, "master_port": free_port(self._address)}
        wire = {"packed": True, "packed_buffer_size_bytes": BUCKET_BYTES, "packed_num_buffers": NUM_BUFFERS}
        group = place | {"world_size": 1 + sum(sizes)}
        offsets = dict(zip((member.url for member in members), accumulate(sizes, initial=1), strict=False))
        joined = self._pool.each(
            members, lambda client: client.join_group(group | wire | {"rank_offset": offsets[client.url]})
        )
        with ThreadPoolExecutor(1) as beside:  # they wait for this process, and it for them
            met = beside.submit(self._call, joined)
            self._group = trainer_init(group)
            met.result()
        self._urls = [member.url for member in members]

    def _send(self, members: list[Member], bucket: dict[str, torch.Tensor]) -> None:
        """Broadcast a bucket while the servers receive it; a server that fails breaks the group, so nobody hangs."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        group = self._group
        described = {
            "names": list(bucket),
            "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in bucket.values()],
            "shapes": [list(tensor.shape) for tensor in bucket.values()],
        }
        torch.cuda.current_stream().synchronize()  # the copies are whole before another stream reads them
        with ThreadPoolExecutor(1) as beside:
            received = beside.submit(
                self._call, self._pool.each(members, lambda client: client.receive(described))
            )
            received.add_done_callback(lambda done: group.destroy() if done.exception() else None)
            packed_nccl_broadcast_producer(
                iterator=iter(bucket.items()),
                group=group,
                src=0,
                post_iter_func=lambda item: item[1],
                buffer_size_bytes=BUCKET_BYTES,
                num_buffers=NUM_BUFFERS,
            )
            received.result()
