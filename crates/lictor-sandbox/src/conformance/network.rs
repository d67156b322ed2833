//! Attempts on sockets and networks of the host. What is reached is bait on the loopback interface or in the file
//! system; where an address is somebody else's, only the way to it is asked for, and nothing is sent.

use super::{Attempt, Class, Rule};

const fn must(name: &'static str, stands_for: &'static str, program: &'static str) -> Attempt {
    Attempt::new(Class::Network, Rule::Must, [name, stands_for, program])
}

const fn should(name: &'static str, stands_for: &'static str, program: &'static str) -> Attempt {
    Attempt::new(Class::Network, Rule::Should, [name, stands_for, program])
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    must(
        "connect to the host by IPv4",
        "services that trust the loopback interface",
        "socket.create_connection(('127.0.0.1', B['tcp']), timeout=5)\nout('connected')",
    ),
    must(
        "connect to the host by IPv6",
        "the same, where only IPv4 is filtered",
        "socket.create_connection(('::1', B.get('tcp6', 9)), timeout=5)\nout('connected')",
    )
    .absent(
        &["EADDRNOTAVAIL", "EAFNOSUPPORT", "ECONNREFUSED"],
        "the machine has no IPv6",
    ),
    must(
        "connect by the first data",
        "TCP fast open, which passes no check of connect(2) (Landlock)",
        r"
s = socket.socket(); s.settimeout(5)
s.sendto(b'x', 0x20000000, ('127.0.0.1', B['tcp']))
out('sent')",
    ),
    must(
        "connect by another protocol",
        "MPTCP, which passes no check of TCP (Landlock)",
        r"
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.settimeout(5)
s.connect(('127.0.0.1', B['tcp']))
out('connected')",
    )
    .absent(
        &["EPROTONOSUPPORT", "ENOPROTOOPT"],
        "the kernel was built without MPTCP",
    ),
    must(
        "send a datagram to the host",
        "UDP, which Landlock does not know",
        r"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
s.connect(('127.0.0.1', B['udp'])); s.send(b'x')
s.recv(100)
out('answered')",
    ),
    must(
        "resolve a name",
        "DNS as a channel out",
        r"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
s.connect(('127.0.0.1', B['dns']))
s.send(struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + b'\x06secret\x07example\x00' + struct.pack('>HH', 1, 1))
if s.recv(512)[-4:] == bytes([127, 0, 0, 7]): out('resolved')",
    ),
    must(
        "a way to the metadata service",
        "169.254.169.254 (server-side request forgery)",
        r"
# A machine of one's own without a network has no way there: one is made, where that is allowed.
import subprocess
try:
    call('unshare', 0x40000000)
    subprocess.run(['/sbin/ip', 'link', 'set', 'lo', 'up'], check=True)
    subprocess.run(['/sbin/ip', 'address', 'add', '169.254.169.254/32', 'dev', 'lo'], check=True)
except OSError: pass
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('169.254.169.254', 80))
out('there is one')",
    ),
    must(
        "a way to other machines",
        "any route but to oneself",
        r"
import subprocess
try:
    call('unshare', 0x40000000)
    subprocess.run(['/sbin/ip', 'link', 'set', 'lo', 'up'], check=True)
    subprocess.run(['/sbin/ip', 'route', 'add', '192.0.2.0/24', 'dev', 'lo'], check=True)
except OSError: pass
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('192.0.2.200', 9))
out('there is one')",
    ),
    should(
        "ports of the host",
        "listening where others expect somebody else",
        r"
s = socket.socket()
try: s.bind(('127.0.0.1', B['tcp']))
except OSError as e:
    if e.errno == errno.EADDRINUSE: out('the numbers are shared')
    raise",
    ),
    must(
        "abstract socket of the host",
        "abstract Unix sockets are of the network (CVE-2020-15257)",
        r"
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b'x', B['abstract'])
out('sent')",
    ),
    must(
        "D-Bus by its abstract address",
        "a message bus that runs what it is asked to",
        r"
s = socket.socket(socket.AF_UNIX); s.settimeout(5)
s.connect(B['dbus']); s.sendall(b'\0AUTH EXTERNAL\r\n')
if s.recv(100).startswith(b'OK'): out('authenticated')",
    ),
    must(
        "docker.sock",
        "a socket in the file system, which Landlock does not know before ABI 9",
        r"
s = socket.socket(socket.AF_UNIX); s.settimeout(5)
s.connect(B['path'])
out('connected')",
    ),
    must(
        "sockets of services",
        "/run: D-Bus, systemd, containers, sshd agents",
        r"
def sockets():
    for place in ('/run', '/var/run', '/tmp', os.path.dirname(B['path'])):
        for at, _, files in os.walk(place):
            for f in files:
                if stat.S_ISSOCK(os.lstat(at + '/' + f).st_mode): yield at + '/' + f
found = list(sockets())
if found: out(found[0])
raise OSError(errno.ENOENT, 'none')",
    ),
    must(
        "send by a socket of a pair",
        "a datagram socket that is connected can send elsewhere all the same",
        r"
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.sendto(b'x', B['path_datagram'])
out('sent')",
    ),
    must(
        "send by a raw socket of a pair",
        "SOCK_RAW is a datagram socket by another number",
        r"
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)
a.connect(B['path_datagram']); a.send(b'x')
out('sent')",
    ),
    should(
        "raw packets",
        "SOCK_RAW, for ICMP and forged headers",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)\nout('made')",
    ),
    should(
        "echo requests",
        "ICMP as a channel out",
        r"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP); s.settimeout(2)
s.sendto(b'\x08\x00\x00\x00\x00\x00\x00\x01lictor', ('127.0.0.1', 0)); s.recv(100)
out('answered')",
    )
    .absent(&["EACCES"], "net.ipv4.ping_group_range lets nobody"),
    should(
        "frames of the network",
        "AF_PACKET, sniffing and forging",
        "socket.socket(17, socket.SOCK_RAW, socket.htons(3))\nout('made')",
    )
    .absent(&["EAFNOSUPPORT"], "the kernel was built without AF_PACKET"),
    should(
        "interfaces and addresses of the host",
        "netlink route, if_nameindex(3)",
        r"
if len(socket.if_nameindex()) > 1: out(socket.if_nameindex()[1][1])
raise OSError(errno.ENODEV, 'only loopback')",
    )
    .absent(&["ENODEV"], "the machine has no interface but loopback"),
    should(
        "connections of the host",
        "/proc/net/tcp and its kind",
        r#"
port = f':{B["tcp"]:04X} '
if port in open('/proc/net/tcp').read(): out('listed')"#,
    ),
];
