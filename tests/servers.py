"""Servers on loopback, each a process of its own: llama.cpp with SmolLM2, and one that misbehaves on purpose.

`python -m tests.servers PORT SEED LOG` answers like a chat model that says "good" to texts whose number is
even and "bad" to others, when it does not misbehave; it writes a line to LOG for each request: its number,
and the tokens it took.
"""

import asyncio
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TROUBLE = ("429", "500", "reset", "hang", "half", "empty", "schema", "drip", "503", "no choice")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(module: str, port: int, *arguments: object) -> Iterator[str]:
    """The URL of a server in a process of its own, up when the block begins and gone when it ends."""
    command = [sys.executable, "-m", module, str(port), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "ready":
                break
        assert process.poll() is None, "the server did not start"
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


class Misbehaving:
    """A share `rate` of the requests goes wrong, in storms: when one does, the next few do likewise."""

    def __init__(self, seed: int, log: Path, rate: float) -> None:
        self.random, self.rate = random.Random(seed), rate
        self.log = log.open("a", buffering=1)
        self.storm, self.left = "", 0

    def trouble(self) -> str:
        if not self.left and self.random.random() < self.rate:
            self.storm, self.left = self.random.choice(TROUBLE), self.random.randint(1, 12)
        if not self.left:
            return ""
        self.left -= 1
        return self.storm

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
                body = json.loads(await reader.readexactly(length))
                if not await self.answer(body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, TypeError):
            pass
        finally:
            writer.close()

    async def answer(self, body: dict, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False where the connection ends with it."""
        text = body["messages"][-1]["content"]
        number = int(re.search(r"\d+", text)[0])  # type: ignore[index]
        tokens = {"prompt_tokens": len(text) // 4 + 5, "completion_tokens": 1}
        self.log.write(f"{number} {sum(tokens.values())}\n")
        word = "good" if number % 2 == 0 else "bad"
        reply = {"choices": [{"message": {"content": word}, "finish_reason": "stop"}], "usage": tokens}
        trouble = self.trouble()
        if trouble == "reset":
            writer.transport.abort()
            return False
        if trouble == "hang":
            await asyncio.sleep(30)
            return False
        status, extra, content = "200 OK", "", json.dumps(reply).encode()
        if trouble in ("429", "500", "503"):
            status, content = f"{trouble} Trouble", b'{"error": "trouble"}'
            extra = "retry-after: 0.05\r\n" if trouble == "429" else ""
        elif trouble == "empty":
            reply["choices"][0]["message"]["content"] = ""
            content = json.dumps(reply).encode()
        elif trouble == "schema":
            content = b'{"result": ["good"]}'
        elif trouble == "no choice":
            content = b'{"choices": [], "usage": null}'
        elif trouble == "half":
            content = content[: len(content) // 2]
        header = f"HTTP/1.1 {status}\r\n{extra}content-length: {len(content)}\r\n\r\n"
        writer.write(header.encode())
        for start in range(0, len(content), 8 if trouble == "drip" else len(content)):
            writer.write(content[start : start + (8 if trouble == "drip" else len(content))])
            await writer.drain()
            if trouble == "drip":
                await asyncio.sleep(0.2)
        return True


async def main(port: int, seed: int, log: Path, rate: float) -> None:
    server = await asyncio.start_server(Misbehaving(seed, log, rate), "127.0.0.1", port)
    print("ready", flush=True)
    async with server:
        await asyncio.wait_for(server.serve_forever(), timeout=600)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])))


def requests_in(log: Path) -> list[tuple[int, int]]:
    """(number of the text, tokens) of each request that a server wrote down."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(a), int(b)) for a, b in (line.split() for line in lines)]


def wait_until(condition, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.01)
