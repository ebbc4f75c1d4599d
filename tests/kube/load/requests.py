"""requests.py HOST PORT SECONDS MARKER: HTTP requests one after the other, each on a connection of its own, 20 ms apart,
until SECONDS are over or a SIGINT comes.

Says "up" after the first. Any request that gets no 200 within 30 s is a failure, told with its time. At the end: how many, and
the slowest in seconds."""
import http.client
import signal
import sys
import time

host, port, seconds, marker = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
begin, count, slowest, lost = time.time(), 0, 0.0, []
end = begin + seconds


def enough(*_):
    global end
    end = 0.0


signal.signal(signal.SIGINT, enough)
while time.time() < end:
    at = time.time()
    try:
        connection = http.client.HTTPConnection(host, port, timeout=30)
        connection.request("GET", "/name", headers={"X-Marker": marker})
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read(), answer.status
        connection.close()
    except Exception as error:
        lost.append("%.2f s: %r" % (at - begin, error))
    slowest, count = max(slowest, time.time() - at), count + 1
    if count == 1:
        print("up", flush=True)
    time.sleep(0.02)
assert not lost, "%d of %d requests were lost: %s" % (len(lost), count, lost[:5])
print(count, slowest)
