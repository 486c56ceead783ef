"""Carries packets between two tun devices, each way SECONDS later: `delay_line.py FD FD SECONDS`.

What netem does in kernels that have it. A program of its own, so that it competes with no test for
the interpreter.
"""

import collections
import os
import select
import sys
import time

LARGEST = 2048
ends = {int(sys.argv[1]): int(sys.argv[2]), int(sys.argv[2]): int(sys.argv[1])}
delay = float(sys.argv[3])
due: collections.deque[tuple[float, int, bytes]] = collections.deque()

while True:
    patience = max(0.0, due[0][0] - time.monotonic()) if due else None
    for end in select.select(list(ends), [], [], patience)[0]:
        packet = os.read(end, LARGEST)
        due.append((time.monotonic() + delay, ends[end], packet))
    while due and due[0][0] <= time.monotonic():
        _, end, packet = due.popleft()
        os.write(end, packet)
