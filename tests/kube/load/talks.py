"""talks.py HOST COUNT SECONDS MARKER: conversations with an echo server over COUNT connections, a line on each every 200 ms, until
SECONDS are over or a SIGINT comes.

Says "up" when every connection has had its first answer. A reset, a lost byte or 120 s without an answer is a failure. At the end:
number of lines that came back, and the longest wait for one after the first of its connection, in seconds."""
import selectors
import signal
import socket
import sys
import time

host, count, seconds, marker = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4].encode()


class Talk:
    def __init__(self):
        self.socket = socket.create_connection((host, 9000), 60)
        self.lines, self.gap = 0, 0.0
        self.say()

    def say(self):
        self.got, self.line, self.since = b"", b"%s %d\n" % (marker, self.lines), time.time()
        self.socket.sendall(self.line)

    def hear(self):
        data = self.socket.recv(65536)
        assert data, "the other side closed"
        self.got += data
        if len(self.got) >= len(self.line):
            assert self.got == self.line, (self.got, self.line)
            # the first answers wait until all connections are made, which is the echo server's pace and nobody's pause
            self.gap = max(self.gap, time.time() - self.since if self.lines else 0.0)
            self.lines, self.since, self.next = self.lines + 1, None, time.time() + 0.2


selector, talks = selectors.DefaultSelector(), [Talk() for _ in range(count)]
for talk in talks:
    selector.register(talk.socket, selectors.EVENT_READ, talk)
end, up = time.time() + seconds, False


def enough(*_):
    global end
    end = 0.0


signal.signal(signal.SIGINT, enough)
while True:
    for key, _ in selector.select(0.02):
        key.data.hear()
    if not up and all(talk.lines for talk in talks):
        print("up", flush=True)
        up = True
    now = time.time()
    waiting = [talk for talk in talks if talk.since]
    assert all(now - talk.since < 120 for talk in waiting), "120 s without an answer"
    if now > end and not waiting:
        break
    for talk in talks:
        if now <= end and not talk.since and now >= talk.next:
            talk.say()
print(sum(talk.lines for talk in talks), max(talk.gap for talk in talks))
