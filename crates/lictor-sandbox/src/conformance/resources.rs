//! Attempts on what others need as well. Without a sandbox each stops at a number that harms nobody.

use super::{Attempt, Class, Limit, Rule};
use crate::capability::Capability;

const fn must(name: &'static str, stands_for: &'static str, program: &'static str) -> Attempt {
    Attempt::new(Class::Resources, Rule::Must, [name, stands_for, program])
}

const fn should(name: &'static str, stands_for: &'static str, program: &'static str) -> Attempt {
    Attempt::new(Class::Resources, Rule::Should, [name, stands_for, program])
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    must(
        "fork bomb",
        "processes without end",
        r"
made = []
try:
    while len(made) < 100:
        pid = os.fork()
        if pid == 0: signal.pause()
        made.append(pid)
finally:
    for pid in made: os.kill(pid, signal.SIGKILL)
out(f'{len(made)} processes')",
    )
    .limited(Limit::Pids),
    must(
        "threads without end",
        "tasks that are no processes",
        r"
import threading
gate, made = threading.Event(), 0
try:
    while made < 100:
        threading.Thread(target=gate.wait, daemon=True).start()
        made += 1
except RuntimeError as e: raise OSError(errno.EAGAIN, str(e))
finally: gate.set()
out(f'{made} threads')",
    )
    .limited(Limit::Pids),
    must(
        "zombies without end",
        "children that nobody waits for",
        r"
made = 0
while made < 100:
    if os.fork() == 0: os._exit(0)
    made += 1
out(f'{made} zombies')",
    )
    .limited(Limit::Pids),
    must(
        "memory of a process",
        "allocation without end",
        r"
try: b = bytearray(160 << 20)
except MemoryError: raise OSError(errno.ENOMEM, 'no more')
for i in range(0, len(b), 4096): b[i] = 1
out('160 MiB')",
    )
    .limited(Limit::Memory),
    should(
        "memory of many processes",
        "a limit on each, and many of them",
        r"
def hold():
    b = bytearray(40 << 20)
    for i in range(0, len(b), 4096): b[i] = 1
    os.write(done[1], b'x'); signal.pause()
done, pids = os.pipe(), []
for _ in range(4):
    pid = os.fork()
    if pid == 0: hold()
    pids.append(pid)
os.close(done[1])
held = 0
while held < 4 and os.read(done[0], 1): held += 1
gone = [p for p in pids if os.waitpid(p, os.WNOHANG)[0]]
for p in set(pids) - set(gone): os.kill(p, signal.SIGKILL)
if held < 4 or gone: raise OSError(errno.ENOMEM, 'some were ended')
out('160 MiB')",
    )
    .limited(Limit::Memory)
    .needing(Capability::MemoryOfTree),
    should(
        "memory that nobody maps",
        "memfd_create(2), pages that no address space counts",
        r"
fd = os.memfd_create('flood'); part = bytes(1 << 20)
for _ in range(160): os.write(fd, part)
out('160 MiB')",
    )
    .limited(Limit::Memory)
    .needing(Capability::MemoryOfTree),
    must(
        "memory by way of a file system",
        "/dev/shm and /tmp without a size",
        r"
def room(place):
    s = os.statvfs(place)
    opens(place, os.O_TMPFILE | os.O_WRONLY)
    if s.f_bavail * s.f_frsize <= 1 << 30: raise OSError(errno.ENOSPC, 'a small one')
any_of(*[lambda p=p: room(p) for p in ('/dev/shm', '/tmp', '/dev')])",
    ),
    must(
        "a large file",
        "one file that fills the disk",
        r"
with open('large', 'wb', buffering=0) as f:
    for _ in range(3): f.write(bytes(1 << 20))
if os.stat('large').st_size > 2 << 20: out('3 MiB')",
    )
    .limited(Limit::FileSize),
    should(
        "many files",
        "a limit on each, and many of them",
        r"
for n in range(8):
    with open(f'part-{n}', 'wb') as f: f.write(bytes(1 << 20))
out('8 MiB')",
    )
    .limited(Limit::Disk),
    should(
        "inodes",
        "empty files without end",
        r"
for n in range(1000): os.close(os.open(f'empty-{n}', os.O_CREAT | os.O_WRONLY))
out('1000 files')",
    )
    .limited(Limit::Disk),
    must(
        "open files",
        "descriptors without end",
        r"
held = [os.open('/dev/null', os.O_RDONLY) for _ in range(200)]
out(f'{len(held)} descriptors')",
    )
    .limited(Limit::OpenFiles),
];
