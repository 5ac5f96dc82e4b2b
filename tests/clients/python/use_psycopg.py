"""psycopg: one pool for all threads, which looks whether a connection still works before it hands it out."""

import random

import load
import psycopg_pool

QUERY = "INSERT INTO executed (id) SELECT %s FROM pg_sleep(%s) RETURNING id"


def main():
    host, port = load.TARGET.rsplit(":", 1)
    pool = psycopg_pool.ConnectionPool(
        f"host={host} port={port} user=postgres dbname=postgres sslmode=disable",
        min_size=load.CONNECTIONS,
        max_size=load.CONNECTIONS,
        timeout=load.PATIENCE,
        check=psycopg_pool.ConnectionPool.check_connection,
        open=True,
    )
    pool.wait()

    def ask(id):
        with pool.connection() as connection:
            return connection.execute(QUERY, (id, random.uniform(0, load.DELAY))).fetchone()[0]

    load.threads(lambda: ask)
    pool.close()


load.begin("psycopg_pool", psycopg_pool.__version__)
main()
