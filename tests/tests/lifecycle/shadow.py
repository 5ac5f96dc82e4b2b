"""A server whose silence means different things, and its clients, which ask on connections that they keep.

Arguments: `serve PORT KIND`, or `ask ADDRESS PORT CONNECTIONS`, until standard input ends. A server that is

- `quick` answers after 0.1 s;
- `slow` says something at once, as HTTP/2 and TLS do by themselves, and answers after 1.5 s;
- `pushing` answers at once, and speaks every 1.2 s without being asked;
- `closing` answers at once, and ends a connection on which it was asked nothing for 0.9 s.

A client asks, waits for the line `answer`, passes over every other one, and is silent for about a second. It connects anew
where it finds that the server has ended the connection.
"""

import asyncio
import itertools
import random
import sys


async def serve(kind, reader, writer):
    async def push():
        while True:
            await asyncio.sleep(1.2)
            writer.write(b"news\n")

    pushing = asyncio.create_task(push()) if kind == "pushing" else None
    patience = 0.9 if kind == "closing" else None
    while await question(reader, patience):
        if kind == "quick":
            await asyncio.sleep(0.1)
        elif kind == "slow":
            writer.write(b"wait\n")
            await asyncio.sleep(1.5)
        writer.write(b"answer\n")
    if pushing:
        pushing.cancel()
    writer.close()


async def question(reader, patience):
    """A line, or nothing if none comes in time."""
    try:
        return await asyncio.wait_for(reader.readline(), patience)
    except asyncio.TimeoutError:
        return b""


async def ask(address, port):
    while True:
        reader, writer = await asyncio.open_connection(address, port)
        for turn in itertools.count():
            writer.write(b"question\n")
            while (line := await reader.readline()) not in (b"answer\n", b""):
                pass
            if not line:
                break
            # A few turns come first, for what has none is not looked at.
            await asyncio.sleep(random.uniform(0.8, 1.2) if turn > 4 else 0.01)
        writer.close()


async def main(role, *arguments):
    if role == "serve":
        port, kind = arguments
        await asyncio.start_server(lambda *streams: serve(kind, *streams), "0.0.0.0", int(port))
    else:
        address, port, connections = arguments
        tasks = [asyncio.create_task(ask(address, int(port))) for _ in range(int(connections))]
        print("asking", len(tasks), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main(*sys.argv[1:]))
