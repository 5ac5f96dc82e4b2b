"""A gRPC server that writes the id of each call, waits, and answers with it. See ../README.md.

Arguments: the port, and up to how many milliseconds it waits.
"""

import concurrent.futures
import random
import sys
import time

import grpc

PORT, DELAY = int(sys.argv[1]), int(sys.argv[2]) / 1000


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def carry_out(id, context):
    say(id.decode())
    time.sleep(random.uniform(0, DELAY))
    return id


def main():
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=32))
    handlers = {"CarryOut": grpc.unary_unary_rpc_method_handler(carry_out)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("clients.Executor", handlers)])
    server.add_insecure_port(f"0.0.0.0:{PORT}")
    server.start()
    say("listening")
    server.wait_for_termination()


main()
