"""arrived.py PORT MARKER: receives datagrams "MARKER NUMBER" until a SIGINT comes. Says "up" first; at the end how many different numbers there were, and the
lowest of them (0 where there was none)."""
import signal
import socket
import sys

marker, numbers, ended = sys.argv[2].encode(), set(), False
receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
receiver.bind(("::", int(sys.argv[1])))
receiver.settimeout(0.1)


def enough(*_):
    global ended
    ended = True


signal.signal(signal.SIGINT, enough)
print("up", flush=True)
while True:
    try:
        words = receiver.recv(65536).split()
        if words[0] == marker:
            numbers.add(int(words[1]))
    except socket.timeout:
        # what is queued is counted before the end
        if ended:
            break
print(len(numbers), min(numbers, default=0))
