"""RDMA verbs: an open NIC, registered memory, connected queue pairs, completions.

    Nic  ->  register(address, bytes) -> Memory (local and remote key)
         ->  queue_pair(lane)         -> QueuePair: connect(the peer's end), post(work) -> Posted
         ->  wait(posted)

Many work requests go out per doorbell, and only the last of them asks for a completion: queue pairs are reliable and in
order, so its completion is everybody's. Completions are polled (pyverbs holds the interpreter's lock where it blocks on
an event channel); who waits sleeps between looks. Every wait has an end.
"""
