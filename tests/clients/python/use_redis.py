"""redis-py: a client, and so a pool, for each thread. It sends plain commands and pipelines in turn."""

import itertools
import random

import load
import redis


def prepare():
    host, port = load.TARGET.rsplit(":", 1)
    client = redis.Redis(host=host, port=int(port), socket_timeout=load.PATIENCE)
    turn = itertools.cycle([at_once, slowly])

    def ask(id):
        times = next(turn)(client, f"request:{id}")
        # More than once is for whoever reads the counters to say.
        return id if times >= 1 else f"{times} times"

    return ask


def at_once(client, key):
    return client.incr(key)


def slowly(client, key):
    # Nobody ever fills this list: the server answers when the time is up.
    pipeline = client.pipeline(transaction=False).incr(key).blpop("nothing", random.uniform(0.001, load.DELAY))
    return pipeline.execute()[0]


load.begin("redis-py", redis.__version__)
load.threads(prepare)
