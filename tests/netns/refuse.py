"""A kernel that refuses offloads. Run under the name meshd in a folder that `lab up --bin-dir` is given, it is a daemon whose kernel has
what its node's name asks for; run as `refuse.py PID`, it makes a running daemon's kernel refuse batches of datagrams over IPv4.

n1: a TUN device that promises super packets and refuses them, as Linux 6.10.3 did (mended by 89add40066f9): EINVAL to writes of more than
a header and a packet; and batches of datagrams leave by a link with IPsec: EIO, by a sendmsg() of `refuse.c`'s making. n2: Linux 4.17: no USO, UDP_SEGMENT or UDP_GRO."""

import ctypes, errno, os, platform, socket, struct, sys

MESHD = "@MESHD@"
IS_ARM = platform.machine() == "aarch64"
WRITEV, IOCTL, SETSOCKOPT = (66, 29, 208) if IS_ARM else (20, 16, 54)
PIDFD_GETFD = 438
TUNSETOFFLOAD, USO = 0x400454D0, 0x60
SO_NO_CHECK, SOL_UDP, UDP_SEGMENT, UDP_GRO = 11, 17, 103, 104
ALLOW = 0x7FFF0000

libc = ctypes.CDLL(None, use_errno=True)


def load(at):
    return (0x20, 0, 0, at)


def equal(value, otherwise):
    """The next `otherwise` instructions are for this value."""
    return (0x15, 0, otherwise, value)


def refuse(error):
    return (0x06, 0, 0, 0x00050000 | error)


def argument(number):
    return load(16 + 8 * number)


TAKES_NO_SUPER_PACKETS = [
    equal(WRITEV, 3), argument(2), (0x25, 0, 1, 2), refuse(errno.EINVAL),
]  # fmt: skip
OLD = [
    equal(IOCTL, 5), argument(1), equal(TUNSETOFFLOAD, 3), argument(2), (0x45, 0, 1, USO), refuse(errno.EINVAL), load(0),
    equal(SETSOCKOPT, 7), argument(1), equal(SOL_UDP, 5), argument(2), equal(UDP_SEGMENT, 1), refuse(errno.ENOPROTOOPT),
    equal(UDP_GRO, 1), refuse(errno.ENOPROTOOPT),
]  # fmt: skip


def restrict(rules):
    """seccomp(2): the filter stays across execve."""
    program = [load(0), *rules, (0x06, 0, 0, ALLOW)]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    if libc.prctl(22, 2, header, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


def refuse_batches(pid):
    """The kernel cuts no batch whose datagrams would have no checksum: EINVAL. Each alone passes, and has none."""
    pidfd, found = os.pidfd_open(pid), 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if not os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
            continue
        ours = socket.socket(fileno=libc.syscall(PIDFD_GETFD, pidfd, int(fd), 0))
        if ours.family == socket.AF_INET and ours.type == socket.SOCK_DGRAM and ours.getsockname()[1] == 51840:
            ours.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
            found += 1
    assert found == 1, f"{found} sockets of the mesh's port"


if os.path.basename(sys.argv[0]) == "meshd":
    restrict({"n1": TAKES_NO_SUPER_PACKETS, "n2": OLD}.get(dict(zip(sys.argv, sys.argv[1:])).get("--node"), []))
    if "--node" in sys.argv and sys.argv[sys.argv.index("--node") + 1] == "n1":
        os.environ["LD_PRELOAD"] = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "refuse.so")
    os.execv(MESHD, sys.argv)
refuse_batches(int(sys.argv[1]))
