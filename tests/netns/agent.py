"""Runs in a pod of the policy cases: serves TCP, UDP and SCTP on ports 80 to 83 of both families, and probes others.

One JSON line in, one out: {"probe": [[protocol, address, port, nonce, is_wanted], ...], "wait": seconds} is answered with
the nonces that came back, {"heard": []} with all that arrived here since the last time. A nonce is eight hexadecimal digits.
When all that are wanted came back, a tenth of a second is left for the others, if there are any: what comes later is heard at
its end, whenever that is asked.
"""
import json, os, select, socket, struct, sys, threading, time

PORTS = range(80, 84)
SCTP = 132
heard, answered = set(), set()
FAMILIES = (socket.AF_INET, socket.AF_INET6)
GRACE = 0.1

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def sctp(source, destination, tag, kind, own):
    """An INIT (1) or INIT ACK (2) chunk, RFC 9260 section 3.3.2."""
    chunk = struct.pack(">BBHIIHHI", kind, 0, 20, own, 65536, 1, 1, 1)
    head = struct.pack(">HHI", source, destination, tag)
    crc = crc32c(head + bytes(4) + chunk)
    return head + struct.pack("<I", crc) + chunk


raw = {f: socket.socket(f, socket.SOCK_RAW, SCTP) for f in FAMILIES}


def listen():
    sockets = {}
    for family in FAMILIES:
        for port in PORTS:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                s = socket.socket(family, kind)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                s.bind(("", port))
                if kind == socket.SOCK_STREAM:
                    s.listen(256)
                sockets[s] = "listen" if kind == socket.SOCK_STREAM else "udp"
        sockets[raw[family]] = "sctp"
    return sockets


def serve(sockets):
    poll = select.epoll()
    by_number = {}
    for s in sockets:
        s.setblocking(False)
        by_number[s.fileno()] = s
        poll.register(s, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            s = by_number[number]
            kind = sockets[s]
            try:
                if kind == "listen":
                    c, _ = s.accept()
                    c.setblocking(False)
                    by_number[c.fileno()] = c
                    sockets[c] = "stream"
                    poll.register(c, select.EPOLLIN)
                elif kind == "stream":
                    data = s.recv(100)
                    if data:
                        heard.add(data.decode())
                        s.send(data)
                    else:
                        poll.unregister(s)
                        del by_number[number], sockets[s]
                        s.close()
                elif kind == "udp":
                    data, peer = s.recvfrom(100)
                    heard.add(data.decode())
                    s.sendto(data, peer)
                else:
                    take_sctp(s, *s.recvfrom(2000))
            except OSError:
                if kind == "stream":
                    poll.unregister(s)
                    del by_number[number], sockets[s]
                    s.close()


def take_sctp(s, data, peer):
    if s.family == socket.AF_INET:
        data = data[(data[0] & 15) * 4 :]
    if len(data) < 32:
        return
    source, destination, tag, _, kind = struct.unpack(">HHIIB", data[:13])
    own = struct.unpack(">I", data[16:20])[0]
    if kind == 1 and destination in PORTS:
        heard.add("%08x" % own)
        s.sendto(sctp(destination, source, own, 2, 1), (peer[0], 0))
    elif kind == 2:
        answered.add("%08x" % tag)


def probe(probes, wait):
    answered.clear()
    poll = select.epoll()
    waiting = {}
    came_back = set()
    wanted = {nonce for *_, nonce, is_wanted in probes if is_wanted}
    grace = GRACE if len(wanted) < len(probes) else 0
    for protocol, address, port, nonce, _ in probes:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            if protocol == "SCTP":
                source = 20000 + int(nonce, 16) % 40000
                raw[family].sendto(sctp(source, port, 0, 1, int(nonce, 16)), (address, 0))
                continue
            is_stream = protocol == "TCP"
            s = socket.socket(family, socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM)
            s.setblocking(False)
            s.connect_ex((address, port))
            if not is_stream:
                s.send(nonce.encode())
            waiting[s.fileno()] = [s, nonce, is_stream]
            poll.register(s, select.EPOLLOUT if is_stream else select.EPOLLIN)
        except OSError:
            pass
    end = time.monotonic() + wait
    while (left := end - time.monotonic()) > 0:
        if wanted is not None and wanted <= came_back | answered:
            end = min(end, time.monotonic() + grace)
            wanted = None
            continue
        # answers by SCTP come in beside this
        for number, event in poll.poll(min(left, GRACE / 5)):
            s, nonce, to_send = waiting[number]
            try:
                if to_send and not event & select.EPOLLERR:
                    s.send(nonce.encode())
                    waiting[number][2] = False
                    poll.modify(s, select.EPOLLIN)
                    continue
                if s.recv(100).decode() == nonce:
                    came_back.add(nonce)
            except OSError:
                pass
            poll.unregister(s)
    for s, _, _ in waiting.values():
        s.close()
    return sorted(came_back | answered)


threading.Thread(target=serve, args=(listen(),), daemon=True).start()
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "probe" in asked:
        print(json.dumps(probe(asked["probe"], asked["wait"])), flush=True)
    else:
        now = sorted(heard)
        heard.clear()
        print(json.dumps(now), flush=True)
os._exit(0)
