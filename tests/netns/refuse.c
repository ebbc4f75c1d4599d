/* sendmsg(2) of a kernel whose way out is an IPsec transformation: it cuts no batch of datagrams (udp_send_skb() of net/ipv4/udp.c). */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t sendmsg(int socket, const struct msghdr *message, int flags) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR((struct msghdr *)message, c))
        if (c->cmsg_level == 17 /* SOL_UDP */ && c->cmsg_type == 103 /* UDP_SEGMENT */) {
            errno = EIO;
            return -1;
        }
    return syscall(SYS_sendmsg, socket, message, flags);
}
