"""httpx, with asyncio: a client for each task."""

import contextlib

import httpx
import load


@contextlib.asynccontextmanager
async def prepare():
    async with httpx.AsyncClient(timeout=load.PATIENCE) as client:

        async def ask(id):
            answer = await client.post(f"{load.URL}/{id}")
            return answer.raise_for_status().text

        yield ask


load.begin("httpx.AsyncClient", httpx.__version__)
load.tasks(prepare)
