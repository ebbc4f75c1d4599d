"""ask.py udp|tcp SERVER NAME: the addresses (A and AAAA) that a name server on port 53 gives, a line each; fails when it does not answer."""
import socket
import struct
import sys

how, server, name = sys.argv[1:]
family = socket.AF_INET6 if ":" in server else socket.AF_INET
question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def ask(kind):
    message = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + question + struct.pack("!2H", kind, 1)
    if how == "udp":
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.settimeout(3)
        s.sendto(message, (server, 53))
        return s.recv(4096)
    s = socket.create_connection((server, 53), 3)
    s.sendall(struct.pack("!H", len(message)) + message)
    answer = s.makefile("rb")
    return answer.read(struct.unpack("!H", answer.read(2))[0])


def skip(rest):
    """What follows a name, which ends with an empty label or a pointer (RFC 1035 section 4.1.4)."""
    while rest[0]:
        if rest[0] >= 0xC0:
            return rest[2:]
        rest = rest[1 + rest[0]:]
    return rest[1:]


for kind, length, family_of in ((1, 4, socket.AF_INET), (28, 16, socket.AF_INET6)):
    answer = ask(kind)
    count, rest = struct.unpack("!H", answer[6:8])[0], answer[12 + len(question) + 4:]
    for _ in range(count):
        # type, class, time to live, length, and the data
        rest = skip(rest)
        size = struct.unpack("!H", rest[8:10])[0]
        if struct.unpack("!H", rest[:2])[0] == kind and size == length:
            print(socket.inet_ntop(family_of, rest[10:10 + size]))
        rest = rest[10 + size:]
