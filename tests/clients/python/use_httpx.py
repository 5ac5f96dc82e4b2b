"""httpx, without asyncio: a client for each thread."""

import httpx
import load


def prepare():
    client = httpx.Client(timeout=load.PATIENCE)

    def ask(id):
        return client.post(f"{load.URL}/{id}").raise_for_status().text

    return ask


load.begin("httpx.Client", httpx.__version__)
load.threads(prepare)
