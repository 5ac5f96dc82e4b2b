"""What an ordinary Python program does with a Service. Arguments: IPv4 and IPv6 address, port. Says as JSON what it saw."""

import asyncio
import http.client
import json
import socket
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

V4, V6, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])


def host(address):
    return f"[{address}]" if ":" in address else address


def get_kept_alive(address):
    """Five requests on one connection: its peer, and who answered."""
    connection = http.client.HTTPConnection(address, PORT, timeout=10)
    bodies = []
    for _ in range(5):
        connection.request("GET", "/")
        bodies.append(connection.getresponse().read().decode().strip())
    peer = connection.sock.getpeername()
    connection.close()
    return [peer[:2], sorted(set(bodies))]


def get_once(address):
    with urllib.request.urlopen(f"http://{host(address)}:{PORT}/", timeout=10) as answer:
        return answer.read().decode().strip()


async def hold_many(address, count):
    """That many connections at once, a request on each."""
    streams = await asyncio.gather(*(asyncio.open_connection(address, PORT) for _ in range(count)))
    who = []
    for reader, writer in streams:
        writer.write(b"GET / HTTP/1.1\r\nHost: service\r\n\r\n")
    for reader, writer in streams:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split()[0])
        who.append((await reader.readexactly(length)).decode().strip())
    for reader, writer in streams:
        writer.close()
    return {name: who.count(name) for name in set(who)}


def datagrams(family, address):
    """Unconnected, then connected: the source of each answer."""
    sources = []
    with socket.socket(family, socket.SOCK_DGRAM) as unconnected:
        unconnected.settimeout(5)
        for _ in range(3):
            unconnected.sendto(b"who\n", (address, PORT))
            sources.append(unconnected.recvfrom(2048)[1][:2])
    with socket.socket(family, socket.SOCK_DGRAM) as connected:
        connected.settimeout(5)
        connected.connect((address, PORT))
        connected.send(b"who\n")
        sources.append(connected.recvfrom(2048)[1][:2])
        sources.append(connected.getpeername()[:2])
    return sources


MAPPED = f"::ffff:{V4}"
with ThreadPoolExecutor(8) as pool:
    short = list(pool.map(get_once, [V4] * 60))
print(
    json.dumps(
        {
            "kept": [get_kept_alive(address) for address in (V4, V6, MAPPED)],
            "short": {name: short.count(name) for name in set(short)},
            "many": asyncio.run(hold_many(V4, 60)),
            "datagrams": [
                datagrams(socket.AF_INET, V4),
                datagrams(socket.AF_INET6, V6),
                datagrams(socket.AF_INET6, MAPPED),
            ],
        }
    )
)
