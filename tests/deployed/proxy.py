"""A network that breaks on command: a TCP proxy, a process of its own, between one site and its coordinator.

``reset`` ends every connection with RST and refuses new ones, as a VPN that drops or a firewall that restarts. ``hole``
loses every packet: connections stay open and nothing comes through; what was on its way comes when the hole ends, as
TCP would send it again, even to an end that has given up meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
from typing import Any, Literal

Kind = Literal["reset", "hole"]
Way = Literal["up", "down"]


class Proxy:
    """The test's end.

    Args:
        port: of the coordinator.
    """

    def __init__(self, port: int) -> None:
        command = [sys.executable, __file__, str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._answer()["port"])

    def cut(self, kind: Kind) -> None:
        """Cuts now."""
        self._tell(do="cut", kind=kind)

    def cut_after(self, kind: Kind, way: Way, count: int) -> None:
        """Cuts when one connection has carried ``count`` bytes one way from now on."""
        self._tell(do="after", kind=kind, way=way, count=count)

    def heal(self) -> int:
        """Ends the cut; how many connections it has touched."""
        return int(self._tell(do="heal")["touched"])

    @property
    def is_cut(self) -> bool:
        """Whether a cut is on."""
        return bool(self._tell(do="ask")["cut"])

    def wait_cut(self, seconds: float) -> None:
        """Waits for the cut of :meth:`cut_after`."""
        until = time.monotonic() + seconds
        while not self.is_cut:
            assert time.monotonic() < until, f"no transfer of that size within {seconds} s"
            time.sleep(0.02)

    def close(self) -> None:
        """Ends the proxy, and all connections through it."""
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()

    def _tell(self, **command: Any) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        return dict(json.loads(self.process.stdout.readline()))


class Relay:
    """The program."""

    def __init__(self, port: int) -> None:
        self.port, self.kind = port, ""
        self.open = asyncio.Event()
        self.open.set()
        self.writers: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self.touched = 0
        self.trigger: tuple[str, str, int] | None = None

    async def serve(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        await asyncio.start_server(self.link, sock=listener)
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        while line := await commands.readline():  # ends with the test
            command = json.loads(line)
            if command["do"] == "cut":
                self.cut(command["kind"])
            elif command["do"] == "after":
                self.trigger = command["kind"], command["way"], command["count"]
            elif command["do"] == "heal":
                self.kind = ""
                self.open.set()
            print(json.dumps({"cut": self.kind, "touched": self.touched}), flush=True)

        sys.stdout.flush()
        os._exit(0)  # without a farewell to the connections, which would be an error message each

    def cut(self, kind: str) -> None:
        self.kind, self.trigger, self.touched = kind, None, len(self.writers) // 2
        if kind == "hole":
            self.open.clear()
            return
        for writer in list(self.writers):
            reset(writer)

    async def link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the site."""
        if self.kind:
            self.touched += 1
        if self.kind == "reset":
            reset(writer)
            return
        await self.open.wait()
        try:
            other_reader, other = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            reset(writer)
            return
        up = asyncio.create_task(self.pump(reader, other, "up"))
        down = asyncio.create_task(self.pump(other_reader, writer, "down"))
        self.writers |= {writer: down, other: up}
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.05)
        for end, task in ((writer, down), (other, up)):
            task.cancel()
            end.close()
            self.writers.pop(end, None)

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        carried, since = 0, self.trigger
        try:
            while data := await source.read(16384):
                if self.trigger is not since:
                    carried, since = 0, self.trigger
                carried += len(data)
                if self.trigger and self.trigger[1] == way and carried >= self.trigger[2]:
                    self.cut(self.trigger[0])
                await self.open.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass


def reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN: the other end gets an error, not an end."""
    link = writer.get_extra_info("socket")
    if link is not None and link.fileno() >= 0:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(Relay(int(sys.argv[1])).serve())
