"""datagrams.py HOST PORT SECONDS MARKER: a marked datagram every 5 ms until SECONDS are over or a SIGINT comes, whoever is there or not. Says "up" first; at the end how
many were sent, and 0."""
import signal
import socket
import sys
import time

host, port, seconds, marker = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4].encode()
family = socket.AF_INET6 if ":" in host else socket.AF_INET
sender, end, count = socket.socket(family, socket.SOCK_DGRAM), time.time() + seconds, 0


def enough(*_):
    global end
    end = 0.0


signal.signal(signal.SIGINT, enough)
print("up", flush=True)
while time.time() < end:
    try:
        sender.sendto(b"%s %d" % (marker, count), (host, port))
        count += 1
    except OSError:
        pass
    time.sleep(0.005)
print(count, 0)
