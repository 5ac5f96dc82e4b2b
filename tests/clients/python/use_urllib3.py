"""urllib3: a pool of one connection for each thread."""

import load
import urllib3


def prepare():
    pool = urllib3.PoolManager(num_pools=1, maxsize=1, ca_certs=load.CA)

    def ask(id):
        return pool.request("POST", f"{load.URL}/{id}", timeout=load.PATIENCE).data.decode()

    return ask


load.begin("urllib3", urllib3.__version__)
load.threads(prepare)
