"""A proxy that holds back what passes it, so that a test can do something in the middle of a transfer."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self


class Gate:
    """Lets some bytes pass, then none until it is opened."""

    def __init__(self, hold_after: int | None) -> None:
        self._left = hold_after
        self._lock = threading.Lock()
        self._opened = threading.Event()
        #: Set when bytes wait.
        self.reached = threading.Event()
        if hold_after is None:
            self._opened.set()

    def open(self) -> None:
        """Lets all bytes pass from now on."""
        self._opened.set()

    def wait(self, count: int) -> None:
        """Waits until so many bytes may pass."""
        if self._opened.is_set():
            return
        with self._lock:
            assert self._left is not None
            self._left -= count
            held = self._left < 0
        if held:
            self.reached.set()
            self._opened.wait()


class SlowProxy:
    """A TCP proxy before a service: bytes to the service pass the gate `up`, answers the gate `down`."""

    def __init__(self, port: int, *, up: int | None = None, down: int | None = None) -> None:
        self.up, self.down = Gate(up), Gate(down)
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.close()
        self.up.open()
        self.down.open()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                service = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                # The test is over, or the service.
                return
            self._sockets += [client, service]
            for source, sink, gate in ((client, service, self.up), (service, client, self.down)):
                threading.Thread(target=_pump, args=(source, sink, gate), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, gate: Gate) -> None:
    try:
        while data := source.recv(1 << 16):
            gate.wait(len(data))
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # Either end hung up: so does the other.
        for one in (source, sink):
            one.close()
