"""One of the servers that share a listening socket: ``python -m stage.serve FILE_DESCRIPTOR``."""

import socket
import sys

import uvicorn

if __name__ == "__main__":
    config = uvicorn.Config(
        "stage.asgi:application",
        ws="websockets-sansio",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
