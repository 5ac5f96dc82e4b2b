"""requests: a session for each thread."""

import load
import requests


def prepare():
    session = requests.Session()
    # The session's own setting gives way to variables of the environment.
    verify = load.CA or True

    def ask(id):
        answer = session.post(f"{load.URL}/{id}", timeout=load.PATIENCE, verify=verify)
        answer.raise_for_status()
        return answer.text

    return ask


load.begin("requests", requests.__version__)
load.threads(prepare)
