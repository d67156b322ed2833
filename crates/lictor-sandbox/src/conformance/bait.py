"""The outside that attempts try to reach: run on the host, as the user that sandboxes run as.

Says where everything is in one line of JSON; answers each line of input with what reached it since; removes what it
made and ends when its input does.
"""
import ctypes, json, os, select, signal, socket, struct, sys

place = sys.argv[1]
reached = []
C = ctypes.CDLL(None, use_errno=True)
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGIO):
    signal.signal(number, lambda n, _: reached.append(f'signal {n}'))
held = open(f'{place}/run/secret')


def listener(family, address, kind=socket.SOCK_STREAM):
    s = socket.socket(family, kind)
    s.bind(address)
    if kind != socket.SOCK_DGRAM:
        s.listen(64)
    if family == socket.AF_UNIX and isinstance(address, str) and address[0] == '/':
        os.chmod(address, 0o777)
    s.setblocking(False)
    return s


own = str(os.getpid())
names = {
    'abstract': f'\0lictor-bait-{own}',
    'dbus': f'\0/tmp/dbus-lictor{own}',
    'path': f'{place}/run/docker.sock',
    'path_datagram': f'{place}/run/log',
}
D = socket.SOCK_DGRAM
sockets = {
    'tcp': listener(socket.AF_INET, ('127.0.0.1', 0)),
    'udp': listener(socket.AF_INET, ('127.0.0.1', 0), D),
    'dns': listener(socket.AF_INET, ('127.0.0.1', 0), D),
    'abstract': listener(socket.AF_UNIX, names['abstract'], D),
    'dbus': listener(socket.AF_UNIX, names['dbus']),
    'path': listener(socket.AF_UNIX, names['path']),
    'path_datagram': listener(socket.AF_UNIX, names['path_datagram'], D),
}
try:
    sockets['tcp6'] = listener(socket.AF_INET6, ('::1', 0))
except OSError:
    pass


def answer(name, data):
    if name == 'dns':
        address = struct.pack('>HHHIH4B', 0xC00C, 1, 1, 0, 4, 127, 0, 0, 7)
        return data[:2] + struct.pack('>HHHHH', 0x8180, 1, 1, 0, 0) + data[12:] + address
    return b'OK reached\r\n'


def serve(name, s):
    reached.append(name)
    if s.type == D:
        data, sender = s.recvfrom(4096)
        if sender:
            s.sendto(answer(name, data), sender)
        return
    peer, _ = s.accept()
    with peer:
        peer.sendall(answer(name, b''))


def message_queue():
    C.mq_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    name = f'/lictor-bait-{own}'
    return name if C.mq_open(name.encode(), os.O_CREAT | os.O_RDWR, 0o666, None) >= 0 else None


key = 0x4C000000 + os.getpid()
shared = C.shmget(key, 4096, 0o1666)
queue = message_queue()
known = {n: s.getsockname()[1] for n, s in sockets.items() if s.family in (socket.AF_INET, socket.AF_INET6)}
known |= names | {'pid': os.getpid(), 'uid': os.getuid(), 'gid': os.getgid(), 'descriptor': held.fileno(), 'shared': key, 'queue': queue}
print(json.dumps(known), flush=True)

by_number = {s.fileno(): (n, s) for n, s in sockets.items()}
going = True
while going:
    ready, _, _ = select.select([0, *by_number], [], [])
    # What came before the question is told with its answer.
    for number in ready:
        if number:
            try:
                serve(*by_number[number])
            except OSError:
                pass
    if 0 in ready:
        going = bool(os.read(0, 4096))
        print(json.dumps(reached), flush=True)
        reached.clear()
C.shmctl(shared, 0, None)
if queue:
    C.mq_unlink(queue.encode())
