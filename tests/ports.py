"""Free ports of this machine."""

import socket


def free_port() -> int:
    """Return a port that no process listens at now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
