"""proxy.py ADDRESS PORT FOLDER_OF_KEYS MODE LOG: stands between a client and the API server at ADDRESS:6443, listens at ADDRESS:PORT.

What it does to lists and watches, the file MODE says in one word; it is read again all the time:
  pass     nothing
  hang     no answer, and watches say nothing, until another word comes; then all goes on
  mute     connections that were there before this word say nothing for ever, while they stay; new ones are served
  flap     a watch is reset after 0.7 s, in the middle of a line, and every second list in the middle of its body
  gone     watches end with 410, at their start by code and later by event; what was refused so stays refused, as after a compaction
  half     watches end with 410, lists come by two objects, and the second page has expired
  garbage  500 with a page of HTML, or 200 with something that is no JSON, to everything
  shuffle  each change comes twice, and then the one before it of the same object once more
Each request is a line in LOG: MODE PEER (list|page|watch|other) PATH, a page being a further one of a list. Says "up" first."""
import http.client
import json
import queue
import re
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse

address, port, keys, mode_file, log_file = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
upstream = ssl.create_default_context(cafile=keys + "/ca.crt")
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(keys + "/apiserver.crt", keys + "/apiserver.key")
log, lock, forgotten, count, muted = open(log_file, "a", buffering=1), threading.Lock(), set(), [0], [0.0]
collection = re.compile(r"^/(api/v1|apis/[^/]+/[^/]+)/[a-z]+$")


def mode():
    with open(mode_file) as file:
        return file.read().strip()


def note_mutes():
    """When the word came last: connections before that are mute."""
    before = mode()
    while True:
        now = mode()
        if now == "mute" != before:
            muted[0] = time.time()
        before = now
        time.sleep(0.02)


def turn():
    with lock:
        count[0] += 1
        return count[0] % 2 == 0


def status(code, reason):
    words = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "code": code}
    return json.dumps({**words, "message": "the proxy says " + reason}).encode()


class Reset(Exception):
    pass


class Client:
    def __init__(self, raw, peer):
        self.peer, self.sock = peer, server.wrap_socket(raw, server_side=True)
        self.reader = self.sock.makefile("rb")
        self.wire, self.since = None, time.time()

    def is_mute(self):
        return self.since < muted[0]

    def run(self):
        while True:
            line = self.reader.readline()
            if not line:
                return
            method, target, _ = line.decode().split()
            headers = {}
            while (line := self.reader.readline().decode().strip()):
                name, value = line.split(":", 1)
                headers[name.lower()] = value.strip()
            body = self.reader.read(int(headers.get("content-length", 0)))
            self.answer(method, target, headers, body)

    def answer(self, method, target, headers, body):
        url = urllib.parse.urlsplit(target)
        asked = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        is_collection = method == "GET" and collection.match(url.path)
        what = ("watch" if asked.get("watch") else "page" if "continue" in asked else "list") if is_collection else "other"
        log.write("%s %s %s %s\n" % (mode(), self.peer, what, url.path))
        while mode() == "hang" or self.is_mute():
            time.sleep(0.05)
        if mode() == "garbage":
            return self.whole(500, b"<html>sorry</html>") if turn() else self.whole(200, b"<html>sorry</html>")
        if what == "watch" and (mode() in ("gone", "half") or asked.get("resourceVersion") in forgotten):
            forgotten.add(asked.get("resourceVersion"))
            return self.whole(410, status(410, "Gone"))
        if what == "page" and mode() == "half":
            return self.whole(410, status(410, "Expired"))
        if what == "list" and mode() == "half":
            asked["limit"] = "2"
            target = url.path + "?" + urllib.parse.urlencode(asked)
        up = http.client.HTTPSConnection(address, 6443, context=upstream, timeout=None)
        keep = {name: headers[name] for name in ("authorization", "content-type", "accept") if name in headers}
        up.request(method, target, body, keep)
        self.wire = up.sock
        response = up.getresponse()
        if what == "watch" and response.status == 200:
            return self.watch(response)
        text = response.read()
        self.whole(response.status, text, cut=what == "list" and mode() == "flap" and turn())

    def whole(self, code, text, cut=False):
        head = "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (code, len(text))
        self.sock.sendall(head.encode() + (text[: len(text) // 2] if cut else text))
        if cut:
            raise Reset

    def chunk(self, text):
        self.sock.sendall(b"%x\r\n%s\r\n" % (len(text), text))

    def watch(self, response):
        self.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        lines, began, before, last = queue.Queue(), time.time(), {}, b'{"type":"ADDED"}'
        threading.Thread(target=read, args=(response, lines), daemon=True).start()
        while True:
            now = mode()
            if now == "flap" and time.time() - began > 0.7:
                self.chunk(last[: len(last) // 2])
                raise Reset
            if now in ("gone", "half"):
                return self.end(b'{"type":"ERROR","object":' + status(410, "Expired") + b"}\n")
            if now == "garbage":
                return self.end(b"<html>sorry</html>\n")
            if now == "hang" or self.is_mute():
                time.sleep(0.05)
                continue
            try:
                line = lines.get(timeout=0.05)
            except queue.Empty:
                continue
            if not line:
                return self.end(b"")
            last = line
            self.chunk(line)
            event = json.loads(line)
            if event["type"] in ("BOOKMARK", "ERROR"):
                continue
            metadata = event["object"]["metadata"]
            name = (metadata.get("namespace"), metadata["name"])
            if now == "shuffle":
                self.chunk(line)
                if name in before:
                    self.chunk(before[name])
            before[name] = line

    def end(self, line):
        if line:
            self.chunk(line)
        self.sock.sendall(b"0\r\n\r\n")
        self.hang_up()

    def hang_up(self):
        # to close it would wait for whoever reads it
        if self.wire:
            try:
                self.wire.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.wire = None


def read(response, lines):
    try:
        while (line := response.readline()):
            lines.put(line)
    except Exception:
        pass
    lines.put(b"")


def serve(raw, peer):
    client = None
    try:
        client = Client(raw, peer)
        client.run()
    except Reset:
        # no word of farewell: the other side sees a reset
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except Exception:
        pass
    finally:
        if client:
            client.hang_up()
            client.reader.close()
            client.sock.close()
        raw.close()


threading.Thread(target=note_mutes, daemon=True).start()
listener = socket.create_server((address, port), backlog=128)
print("up", flush=True)
while True:
    raw, peer = listener.accept()
    threading.Thread(target=serve, args=(raw, peer[0]), daemon=True).start()
