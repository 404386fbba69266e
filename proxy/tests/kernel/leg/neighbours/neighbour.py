"""A client or a node in Python, on asyncio's streams (epoll, level-triggered) or with calls that block.

neighbour.py node|blocking-node PATTERN        says where it listens, until stdin ends
neighbour.py client|blocking-client PATTERN    reads a conversation a line (plan.rs), until stdin ends
"""

import asyncio
import os
import queue
import socket
import socketserver
import struct
import sys
import threading

PATIENCE = 20
AT_A_TIME = 4
mode, path = sys.argv[1:3]
pattern = open(path, "rb").read()


def parse(head):
    line, *fields = head.decode().strip().split("\r\n")
    return line, {name.lower(): value for name, value in (it.split(": ", 1) for it in fields)}


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def pieces(data, most):
    return [data[at : at + most] for at in range(0, len(data), most)]


# What comes is read by one of these two; everything else is written once, for both.


async def read_body(reader, fields):
    if "transfer-encoding" not in fields:
        return await reader.readexactly(int(fields.get("content-length", 0)))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


class Blocking:
    """A file of a socket with the methods of asyncio's reader and writer."""

    def __init__(self, sock):
        self.sock, self.file = sock, sock.makefile("rb")

    async def readuntil(self, end):
        data = b""
        while not data.endswith(end):
            line = self.file.readline()
            if not line:
                raise asyncio.IncompleteReadError(data, None)
            data += line
        return data

    async def readexactly(self, size):
        data = self.file.read(size)
        if len(data) < size:
            raise asyncio.IncompleteReadError(data, size)
        return data

    async def read(self, _=-1):
        return self.file.read(1 << 16)

    def write(self, data):
        self.sock.sendall(data)

    async def drain(self):
        pass

    def write_eof(self):
        self.sock.shutdown(socket.SHUT_WR)

    def get_extra_info(self, _):
        return self.sock

    def close(self):
        self.file.close()
        self.sock.close()


# The node.


async def give(writer, size):
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
    writer.write(head)
    await writer.drain()
    if size < 10_000 or isinstance(writer, Blocking):
        writer.write(pattern[:size])
    else:
        with open(path, "rb") as file:
            await asyncio.get_running_loop().sendfile(writer.transport, file, 0, size)


async def answer(line, body, writer):
    """Whether another request may follow."""
    what, size = (line.split("/") + [""])[1:3]
    size = int(size.split()[0] or 0) if what.split()[0] != "echo" else 0
    if what == "give":
        await give(writer, size)
    elif what == "rest":
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces(pattern[:size], 1 + size // 7):
            writer.write(chunk(piece))
            await writer.drain()
        writer.write(chunk(b""))
    elif what == "cut":
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + pattern[: size // 2])
        await writer.drain()
        reset(writer.get_extra_info("socket"))
        return False
    else:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
        writer.write(body)
    await writer.drain()
    return True


async def serve(reader, writer):
    try:
        while True:
            line, fields = parse(await reader.readuntil(b"\r\n\r\n"))
            if not await answer(line, await read_body(reader, fields), writer):
                break
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    writer.transport.abort() if hasattr(writer, "transport") else writer.close()


async def node():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("listens on %s:%d" % server.sockets[0].getsockname(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        both = Blocking(self.request)
        asyncio.run(serve(both, both))


def blocking_node():
    socketserver.ThreadingTCPServer.daemon_threads = True
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    print("listens on %s:%d" % server.server_address, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


# The client.


class Talk:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def ask(self, method, what, size=None, fields=""):
        target = "/" + what if size is None else "/%s/%d" % (what, size)
        given = "range: bytes=0-%d\r\n" % (size - 1) if what == "give" else ""
        head = "%s %s HTTP/1.1\r\nhost: a\r\n%s%s\r\n" % (method, target, given, fields)
        self.writer.write(head.encode())
        await self.writer.drain()

    async def head(self):
        line, fields = parse(await self.reader.readuntil(b"\r\n\r\n"))
        if line.split()[1] not in ("200", "206"):
            raise ValueError(line)
        return fields

    async def expect(self, size, pause=0):
        fields = await self.head()
        await asyncio.sleep(pause / 1000)
        body = await read_body(self.reader, fields)
        if body != pattern[:size]:
            raise ValueError("%d other bytes for %d" % (len(body), size))

    async def get(self, size, pause):
        await self.ask("GET", "give", size)
        await self.expect(size, pause)

    async def rest(self, size):
        await self.ask("GET", "rest", size)
        await self.expect(size)

    async def post(self, size, piece):
        await self.ask("POST", "echo", None, "content-length: %d\r\n" % size)
        for part in pieces(pattern[:size], piece):
            self.writer.write(part)
            await self.writer.drain()
        await self.expect(size)

    async def chunked(self, size, piece):
        await self.ask("POST", "echo", None, "transfer-encoding: chunked\r\n")
        for part in pieces(pattern[:size], piece) + [b""]:
            self.writer.write(chunk(part))
            await self.writer.drain()
        await self.expect(size)

    async def pause(self, time):
        await asyncio.sleep(time / 1000)

    async def half(self, size):
        await self.ask("GET", "give", size)
        self.writer.write_eof()
        await self.expect(size)
        if await self.reader.read(1):
            raise ValueError("more than was asked for")

    async def reset(self, size):
        await self.ask("GET", "give", size)
        await self.head()
        if await self.reader.readexactly(size // 2) != pattern[: size // 2]:
            raise ValueError("other bytes before a reset")
        reset(self.writer.get_extra_info("socket"))

    async def cut(self, size):
        await self.ask("GET", "cut", size)
        begun = b""
        try:
            line, _ = parse(await self.reader.readuntil(b"\r\n\r\n"))
            if " 502 " in line:
                return
            while piece := await self.reader.read(1 << 16):
                begun += piece
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        if begun != pattern[: len(begun)] or len(begun) > size // 2:
            raise ValueError("%d other bytes of half of %d" % (len(begun), size))


async def connect(address):
    if mode == "client":
        return await asyncio.open_connection(*address)
    both = Blocking(socket.create_connection(address))
    return both, both


def say(text):
    # At once, so that threads do not write into each other's lines.
    os.write(1, (text + "\n").encode())


async def converse(line):
    address, seed, *steps = line.split()
    try:
        reader, writer = await connect(address.rsplit(":", 1))
        talk = Talk(reader, writer)
        for step in steps:
            verb, *numbers = step.split(":")
            await asyncio.wait_for(getattr(talk, verb)(*map(int, numbers)), PATIENCE)
        writer.transport.abort() if hasattr(writer, "transport") else writer.close()
        say("done %s" % seed)
    except Exception as error:
        say("failed %s %r" % (seed, error))


def hand_out(put):
    for line in sys.stdin:
        put(line)
    os._exit(0)


async def client():
    lines = asyncio.Queue()

    async def work():
        while True:
            await converse(await lines.get())

    loop = asyncio.get_running_loop()
    put = lambda line: loop.call_soon_threadsafe(lines.put_nowait, line)
    threading.Thread(target=hand_out, args=(put,)).start()
    await asyncio.gather(*(work() for _ in range(AT_A_TIME)))


def blocking_client():
    lines = queue.Queue()

    def work():
        while True:
            asyncio.run(converse(lines.get()))

    for _ in range(AT_A_TIME):
        threading.Thread(target=work).start()
    hand_out(lines.put)


if mode == "node":
    asyncio.run(node())
elif mode == "blocking-node":
    blocking_node()
elif mode == "blocking-client":
    blocking_client()
else:
    asyncio.run(client())
