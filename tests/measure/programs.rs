//! The little programs that run inside pods. Times are CLOCK_MONOTONIC, which all namespaces share.

/// Sends a numbered datagram every 2 ms to an echo server and prints when each echo came, until it is ended.
pub fn prober(target: std::net::IpAddr) -> String {
    let family = if target.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    format!(
        "import socket,time,threading\n\
         s=socket.socket(socket.{family},socket.SOCK_DGRAM); s.connect(('{target}',8080))\n\
         def send():\n\
         \x20while True:\n\
         \x20 try: s.send(b'%f'%time.monotonic())\n\
         \x20 except OSError: pass\n\
         \x20 time.sleep(0.002)\n\
         threading.Thread(target=send,daemon=True).start()\n\
         while True:\n\
         \x20try: d=s.recv(100); print(float(d),time.monotonic(),flush=True)\n\
         \x20except OSError: pass\n"
    )
}

/// What a new pod does at once: one datagram to an echo server, whose answer it awaits, then a second one. Prints
/// `first MILLISECONDS` (or `first lost`) and `second MILLISECONDS`; then it sleeps.
pub fn newcomer(target: std::net::IpAddr) -> String {
    let family = if target.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    format!(
        "import socket,time\n\
         s=socket.socket(socket.{family},socket.SOCK_DGRAM); s.settimeout(5); s.connect(('{target}',8080))\n\
         def ask(name):\n\
         \x20t=time.monotonic(); s.send(b'x')\n\
         \x20try: s.recv(10); print(name,(time.monotonic()-t)*1000,flush=True)\n\
         \x20except OSError as e: print(name,'lost',flush=True)\n\
         ask('first'); ask('second')\n\
         time.sleep(100000)\n"
    )
}

/// Runs a program many times; prints `MILLISECONDS` a run.
pub const CHILDREN: &str = "import subprocess,sys,time\n\
     for _ in range(int(sys.argv[1])):\n\
     \x20t=time.monotonic(); subprocess.run(sys.argv[2:],stdin=subprocess.DEVNULL,stdout=subprocess.DEVNULL,check=True)\n\
     \x20print((time.monotonic()-t)*1000)\n";
