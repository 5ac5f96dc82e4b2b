"""What every Python client does: workers that send a burst of requests, are silent, and begin again.

../README.md has the variables that are read here and the lines that are written.
"""

import asyncio
import itertools
import os
import random
import sys
import threading

TARGET = os.environ["CLIENT_TARGET"]
CONNECTIONS = int(os.environ["CLIENT_CONNECTIONS"])
BURST = int(os.environ["CLIENT_BURST"])
THINK = int(os.environ["CLIENT_THINK_MIN_MS"]) / 1000, int(os.environ["CLIENT_THINK_MAX_MS"]) / 1000
DELAY = int(os.environ["CLIENT_DELAY_MS"]) / 1000
CA = os.environ.get("CLIENT_CA")
URL = f"{'https' if CA else 'http'}://{TARGET}"

# Seconds until a request without an answer is an error.
PATIENCE = 10


def say(*words):
    # One write for each line: threads must not mix theirs.
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def begin(name, version):
    say("library", name, version)


def judge(id, answer):
    if answer == id:
        say("ok", id)
    else:
        say("error", id, f"answered {answer!r}")


def blame(id, error):
    say("error", id, f"{type(error).__name__}: {error}".replace("\n", " "))


def threads(prepare):
    """Runs a thread for each connection. `prepare` is called in it and returns `ask(id) -> answer`."""
    stop = threading.Event()

    def work(worker):
        ask = prepare()
        ids = (f"{worker}-{n}" for n in itertools.count())
        stop.wait(random.uniform(0, THINK[1]))
        while not stop.is_set():
            for id in itertools.islice(ids, BURST):
                say("sent", id)
                try:
                    judge(id, ask(id))
                except Exception as error:
                    blame(id, error)
            stop.wait(random.uniform(*THINK))

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(CONNECTIONS)]
    for worker in workers:
        worker.start()
    sys.stdin.read()
    stop.set()
    for worker in workers:
        worker.join()


def tasks(prepare):
    """Runs a task for each connection. `prepare()` is an asynchronous context that yields `ask(id) -> answer`, a coroutine."""

    async def silence(stop, seconds):
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    async def work(worker, stop):
        async with prepare() as ask:
            ids = (f"{worker}-{n}" for n in itertools.count())
            await silence(stop, random.uniform(0, THINK[1]))
            while not stop.is_set():
                for id in itertools.islice(ids, BURST):
                    say("sent", id)
                    try:
                        judge(id, await ask(id))
                    except Exception as error:
                        blame(id, error)
                await silence(stop, random.uniform(*THINK))

    async def main():
        stop = asyncio.Event()
        workers = [asyncio.create_task(work(worker, stop)) for worker in range(CONNECTIONS)]
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        stop.set()
        await asyncio.gather(*workers)

    asyncio.run(main())
