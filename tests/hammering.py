"""Many callers at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

from harness import Client, Gateway


def hammered(gateways: list[Gateway], key: str, clients: int, each: int) -> int:
    """How many requests were admitted, of those of so many clients at once."""
    barrier = threading.Barrier(clients)

    def client(number: int) -> int:
        with Client(gateways[number % len(gateways)].port) as caller:
            caller.connect()
            barrier.wait(30)
            return sum(caller.ask("GET", "/", key).status == 200 for _ in range(each))

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(client, range(clients)))
