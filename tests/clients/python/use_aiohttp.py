"""aiohttp: a session for each task."""

import contextlib
import ssl

import aiohttp
import load


@contextlib.asynccontextmanager
async def prepare():
    trust = ssl.create_default_context(cafile=load.CA) if load.CA else True
    limits = aiohttp.ClientTimeout(total=load.PATIENCE)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), timeout=limits) as session:

        async def ask(id):
            async with session.post(f"{load.URL}/{id}", raise_for_status=True) as answer:
                return await answer.text()

        yield ask


load.begin("aiohttp", aiohttp.__version__)
load.tasks(prepare)
