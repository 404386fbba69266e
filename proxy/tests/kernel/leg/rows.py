"""What a client that is delivered to finds with calls of a less usual kind: a line for each."""

import ctypes
import errno
import os
import select
import socket
import struct
import sys
import time

ADDRESS = (sys.argv[1], int(sys.argv[2]))
LIBC = ctypes.CDLL(None, use_errno=True)
TCP_INQ, SO_TIMESTAMP, SO_ZEROCOPY, MSG_ZEROCOPY = 36, 29, 60, 0x4000000
SIZE = 1000


def connect(*options):
    """A connection that is delivered on, both ways, if it can be."""
    client = socket.socket()
    client.setblocking(False)
    for option in options:
        client.setsockopt(*option)
    client.connect_ex(ADDRESS)
    select.select([], [client], [])
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(10):
        ask(client)
        assert answer(client) == SIZE
        # What TCP has on its way is acknowledged within 40 ms.
        time.sleep(0.05)
    return client


def ask(client, flags=0):
    client.send(b"GET /give/%d HTTP/1.1\r\nhost: a\r\n\r\n" % SIZE, flags)


def answer(client):
    """Bytes of the body of a whole response."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        heard += some(client)
    head, body = heard.split(b"\r\n\r\n", 1)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += some(client)
    return len(body)


def some(client):
    while True:
        select.select([client], [], [])
        try:
            heard = client.recv(1 << 16)
        except BlockingIOError:
            # There are notifications.
            continue
        assert heard, "ended"
        return heard


def notified(client):
    """The number of the last call whose buffers the kernel has let go."""
    _, ancillary, _, _ = client.recvmsg(0, 1024, socket.MSG_ERRQUEUE)
    *_, last = struct.unpack("IBBBBII", ancillary[0][2][:16])
    return last


def waiting(client):
    """With a response that has come."""
    ask(client)
    select.select([client], [], [])
    return client


def outcome(call):
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


def row(name, *outcomes):
    print(name, *outcomes, flush=True)


client = connect()
_, pipe = os.pipe()
waiting(client)
row("splice", outcome(lambda: os.splice(client.fileno(), pipe, 1 << 16)), answer(client))

waiting(client)
count = LIBC.recv(client.fileno(), None, 100, socket.MSG_TRUNC | socket.MSG_DONTWAIT)
row("trunc", count, errno.errorcode[ctypes.get_errno()], answer(client))

client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 << 15)
ask(client)
readable, _, _ = select.select([client], [], [], 0.2)
heard = outcome(lambda: len(client.recv(1 << 16)))
row("lowat", bool(readable), heard > SIZE)
client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

client.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 1)
client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
waiting(client)
heard, ancillary, _, _ = client.recvmsg(1 << 16, 1024)
row("ancillary", len(ancillary), len(heard) > SIZE)

client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab")
client.send(b"c", socket.MSG_OOB)
row("oob", answer(client))

client.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
ask(client, MSG_ZEROCOPY)
row("zerocopy-later", answer(client), notified(client))

row("zerocopy", answer(waiting(connect((socket.SOL_SOCKET, SO_ZEROCOPY, 1)))))
