"""grpcio: a channel for each thread, and unary calls."""

import grpc
import load


def prepare():
    # Without this, channels of one process to one target share their connection.
    channel = grpc.insecure_channel(load.TARGET, options=[("grpc.use_local_subchannel_pool", 1)])
    carry_out = channel.unary_unary("/clients.Executor/CarryOut")

    def ask(id):
        return carry_out(id.encode(), timeout=load.PATIENCE).decode()

    return ask


load.begin("grpcio", grpc.__version__)
load.threads(prepare)
