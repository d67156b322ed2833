//! Attempts on files of the host.

use super::{Attempt, Class, Rule};

const fn must(name: &'static str, stands_for: &'static str, program: &'static str) -> Attempt {
    Attempt::new(Class::Filesystem, Rule::Must, [name, stands_for, program])
}

const fn should(name: &'static str, stands_for: &'static str, program: &'static str) -> Attempt {
    Attempt::new(Class::Filesystem, Rule::Should, [name, stands_for, program])
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    must(
        "read a file outside",
        "path by its name",
        "reads(B['secret'])",
    ),
    must(
        "list a directory outside",
        "path by its name",
        "out(os.listdir(B['outside'])[0])",
    ),
    must(
        "write to a file outside",
        "path by its name",
        "opens(B['secret'], os.O_WRONLY)\nout('opened for writing')",
    ),
    must(
        "make a file outside",
        "path by its name",
        "opens(B['outside'] + '/new', os.O_WRONLY | os.O_CREAT)\nout('made')",
    ),
    must(
        "truncate a file outside",
        "truncate(2), which opens nothing (Landlock before ABI 3)",
        "os.truncate(B['secret'], 0)\nout('truncated')",
    ),
    must(
        "remove a file outside",
        "unlink(2)",
        "os.unlink(B['secret'])\nout('removed')",
    ),
    must(
        "rename a file into the workspace",
        "rename(2) across a boundary (Landlock before ABI 2)",
        "os.rename(B['secret'], 'mine')\nreads('mine')",
    ),
    must(
        "read the agent's own files",
        "keys and journal of the supervisor",
        "reads(B['agents'])",
    ),
    must(
        "read the host's passwords",
        "/etc/shadow, home of root",
        "any_of(lambda: open('/etc/shadow').read(), lambda: os.listdir('/root'))",
    ),
    must(
        "write to system directories",
        "/usr, /etc, / and /var writable",
        "any_of(*[lambda d=d: os.close(os.open(d, os.O_TMPFILE | os.O_WRONLY)) for d in ('/usr', '/usr/bin', '/etc', '/', '/var')])",
    ),
    must(
        "follow a link planted in the workspace",
        "symlink traversal (CVE-2024-42472, CVE-2021-30465)",
        "os.symlink(B['secret'], 'link')\nreads('link')",
    ),
    must(
        "race a link against its opening",
        "symlink race, time of check to time of use (CVE-2018-15664, CVE-2021-30465)",
        r"
os.mkdir('in'); open('in/secret', 'w').close()
os.symlink('in', 'race')
# Both give way after each turn, so that each sees what the other did, however many processors there are.
import mmap
swaps = mmap.mmap(-1, 4096)
swapper = os.fork()
while swapper == 0:
    for target in (B['outside'], 'in'):
        os.symlink(target, 'next'); os.rename('next', 'race')
        swaps[:4] = struct.pack('I', struct.unpack('I', swaps[:4])[0] + 1); os.sched_yield()
last, tried = None, 0
try:
    while tried < 400 or struct.unpack('I', swaps[:4])[0] < 400:
        tried += 1
        try: reads('race/secret')
        except OSError as e: last = e
        os.sched_yield()
finally: os.kill(swapper, signal.SIGKILL)
if last: raise last",
    ),
    must(
        "rename the directory one stands in",
        "`..` of a directory moved away (CVE-2015-2925)",
        r"
os.makedirs('a/b/c'); home = os.getcwd(); os.chdir('a/b/c')
os.rename(home + '/a/b', home + '/b')
reads('../' * 40 + B['secret'][1:])",
    ),
    must(
        "climb out of the workspace",
        "`..` past a mount stacked over / (firejail --read-only=/)",
        r"
reads('../' * 40 + B['secret'][1:])",
    ),
    must(
        "climb out of other writable places",
        "`..` from /tmp and /dev/shm",
        r"
def climb(place): os.chdir(place); reads('../' * 40 + B['secret'][1:])
any_of(*[lambda p=p: climb(p) for p in ('/tmp', '/dev/shm', '/run', '/proc/self/fd')])",
    ),
    must(
        "hard link to a file outside",
        "link(2) across a boundary (Landlock before ABI 2)",
        "os.link(B['secret'], 'mine')\nreads('mine')",
    ),
    must(
        "root directory of another process",
        "/proc/PID/root and /proc/PID/cwd",
        r#"
any_of(*[lambda p=p, l=l: reads(f'/proc/{p}/{l}{B["secret"]}') for p in others() for l in ('root', 'cwd')])"#,
    ),
    must(
        "directory of one's own root",
        "/proc/self/root and /proc/thread-self/root",
        "any_of(lambda: reads('/proc/self/root' + B['secret']), lambda: reads('/proc/thread-self/root' + B['secret']))",
    ),
    must(
        "descriptors of other processes",
        "/proc/PID/fd, of the sandbox's own first process too (CVE-2024-21626)",
        r"
def through(fd):
    reads(fd)
    reads(fd + '/' + '../' * 40 + B['secret'][1:])
def all_of(pid):
    last = OSError(errno.ENOENT, 'none')
    for fd in os.listdir(f'/proc/{pid}/fd'):
        target = os.readlink(f'/proc/{pid}/fd/{fd}')
        if not target.startswith('/') or target.startswith('/dev/'): continue
        for path in (f'/proc/{pid}/fd/{fd}', f'/proc/{pid}/fd/{fd}/' + '../' * 40 + B['secret'][1:]):
            try: reads(path)
            except OSError as e: last = e
    raise last
any_of(*[lambda p=p: all_of(p) for p in others()])",
    ),
    must(
        "inherited descriptors",
        "descriptors without close-on-exec (CVE-2024-21626, CVE-2016-9962)",
        r"
tries = [lambda fd=fd: reads(f'/proc/self/fd/{fd}/secret') for fd in os.listdir('/proc/self/fd') if int(fd) > 2]
any_of(*tries)",
    ),
    must(
        "write to one's own input",
        "a descriptor for reading, opened again by /proc/self/fd",
        "os.write(os.open('/proc/self/fd/0', os.O_WRONLY), b'changed')",
    ),
    must(
        "write to what is shown read-only",
        "a path that the profile names, of one's own user",
        r"
def make(): opens(B['shown'] + '/new', os.O_WRONLY | os.O_CREAT)
any_of(lambda: opens(B['shown'] + '/file', os.O_WRONLY), make, lambda: os.unlink(B['shown'] + '/file'), lambda: os.truncate(B['shown'] + '/file', 0))",
    ),
    must(
        "open again what is shown read-only",
        "/proc/self/fd of a descriptor for reading",
        r"
fd = os.open(B['shown'] + '/file', os.O_RDONLY)
opens(f'/proc/self/fd/{fd}', os.O_WRONLY)
out('opened for writing')",
    ),
    must(
        "give another name to what is shown read-only",
        "link(2) and rename(2) to where one may write",
        r"
def link(): os.link(B['shown'] + '/file', 'mine'); opens('mine', os.O_WRONLY)
def name(): os.rename(B['shown'] + '/file', 'mine'); opens('mine', os.O_WRONLY)
any_of(link, name)",
    ),
    must(
        "put something in the place of what is shown",
        "a file or directory above it renamed",
        "os.rename(B['shown'], B['shown'] + '-gone')\nout('renamed')",
    ),
    must(
        "change the mode of what is shown read-only",
        "chmod(2) and fchmod(2) of a descriptor for reading",
        r"
def by_descriptor(): os.fchmod(os.open(B['shown'] + '/file', os.O_RDONLY), 0o600)
any_of(lambda: os.chmod(B['shown'] + '/file', 0o600), by_descriptor)",
    ),
    must(
        "set attributes of what is shown read-only",
        "setxattr(2) by its name, and fsetxattr(2) of a descriptor for reading",
        r"
def by_name(): os.setxattr(B['shown'] + '/file', 'user.lictor', b'1')
def by_descriptor(): os.setxattr(os.open(B['shown'] + '/file', os.O_RDONLY), 'user.lictor', b'1')
any_of(by_name, by_descriptor)",
    ),
    must(
        "overwrite a running program",
        "/proc/self/exe and /proc/PID/exe (CVE-2019-5736)",
        r"
def overwrite(pid):
    try: opens(f'/proc/{pid}/exe', os.O_WRONLY)
    except OSError as e:
        # Busy is asked about after permission: once the program ends, it can be written.
        if e.errno != errno.ETXTBSY: raise
any_of(*[lambda p=p: overwrite(p) for p in ['self'] + others()])",
    ),
    must(
        "environment of other processes",
        "/proc/PID/environ, of the sandbox's own first process too",
        r"
def environment(pid):
    if not open(f'/proc/{pid}/environ', 'rb').read().strip(bytes(1)): raise OSError(errno.ENODATA, 'empty or wiped')
any_of(*[lambda p=p: environment(p) for p in others()])",
    ),
    must(
        "settings of the kernel",
        "/proc/sys written as uid 0 of the host",
        r"
def settings():
    for at, _, files in os.walk('/proc/sys'):
        for f in files: yield lambda p=at + '/' + f: opens(p, os.O_WRONLY)
any_of(*settings())",
    ),
    must(
        "core_pattern and modprobe",
        "a program of one's own started by the kernel as root (CVE-2022-0847 and others end here)",
        "any_of(*[lambda p=p: opens('/proc/sys/kernel/' + p, os.O_WRONLY) for p in ('core_pattern', 'modprobe', 'hotplug')])",
    ),
    must(
        "switches below /proc",
        "/proc/sysrq-trigger, /proc/irq, /proc/bus, /proc/pressure",
        r"
def switches():
    for at, directories, files in os.walk('/proc'):
        if at == '/proc': directories[:] = [d for d in directories if not d.isdigit() and d not in ('self', 'thread-self', 'sys')]
        for f in files: yield lambda p=at + '/' + f: opens(p, os.O_WRONLY)
any_of(*switches())",
    ),
    must(
        "switches below /sys",
        "/sys/kernel, /sys/power, /sys/module written",
        r"
def switches():
    for place in ('/sys/kernel/mm', '/sys/power', '/sys/module', '/sys/fs'):
        for at, _, files in os.walk(place):
            for f in files: yield lambda p=at + '/' + f: opens(p, os.O_WRONLY)
any_of(*switches(), lambda: opens('/sys/kernel/uevent_helper', os.O_WRONLY))",
    ),
    must(
        "cgroups of the host",
        "release_agent (CVE-2022-0492), cgroup.procs, limits",
        r"
def files():
    for at, _, names in os.walk('/sys/fs/cgroup'):
        for f in names:
            if f in ('release_agent', 'cgroup.procs', 'tasks', 'memory.max', 'pids.max'):
                yield lambda p=at + '/' + f: opens(p, os.O_WRONLY)
any_of(*files(), lambda: opens('/sys/fs/cgroup/cgroup.procs', os.O_WRONLY))",
    ),
    must(
        "devices of the host",
        "disks, memory, kernel log, tun and the like in /dev",
        r"
usual = {os.makedev(1, n) for n in (3, 5, 7, 8, 9)} | {os.makedev(5, n) for n in (0, 1, 2)}
def device(name):
    s = os.stat('/dev/' + name)
    if not (stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode)) or s.st_rdev in usual: raise OSError(errno.ENODEV, name)
    opens('/dev/' + name)
names = ['vda', 'sda', 'loop0', 'kmsg', 'mem', 'port', 'kvm', 'fuse', 'loop-control', 'net/tun', 'userfaultfd', 'vsock', 'rtc0', 'snapshot', 'cpu/0/msr']
def listed():
    try: return [n for n in os.listdir('/dev') if not n.startswith(('tty', 'vcs', 'watchdog'))]
    except OSError: return []
any_of(*[lambda n=n: device(n) for n in names + listed()])",
    ),
    must(
        "make a device",
        "mknod(2) of a device, and opening it",
        r"
os.mknod('device', stat.S_IFCHR | 0o666, os.makedev(1, 11))
opens('device')
out('made and opened')",
    ),
    must(
        "file handles",
        "open_by_handle_at(2), the way out of early containers (Shocker)",
        r"
here = os.open('.', os.O_RDONLY)
handle = ctypes.create_string_buffer(struct.pack('II', 128, 0) + bytes(128))
try: call('name_to_handle_at', -100, B['secret'].encode(), handle, ctypes.byref(ctypes.c_int()), 0)
except OSError: handle = ctypes.create_string_buffer(struct.pack('IIII', 8, 1, 2, 0))
os.close(call('open_by_handle_at', here, handle, 0))
out('opened by handle')",
    ),
    must(
        "bind a directory of the host",
        "mount(2) MS_BIND",
        r"
own_mounts(); os.mkdir('m')
call('mount', B['outside'].encode(), b'm', None, 0x1000, None)
reads('m/secret')",
    ),
    must(
        "make a read-only mount writable",
        "mount(2) MS_REMOUNT (bubblewrap issue 287)",
        r"
own_mounts()
try: call('mount', b'/usr', b'/usr', None, 0x1000, None)
except OSError: pass
call('mount', None, b'/usr', None, 0x1020, None)
out('remounted')",
    ),
    must(
        "make a read-only mount writable, by the new calls",
        "mount_setattr(2)",
        r"
reach('mount_setattr', -100, b'/usr', 0, ctypes.create_string_buffer(struct.pack('QQQQ', 0, 1, 0, 0)), 32)",
    ),
    must(
        "take a mount away",
        "umount(2) of what masks /proc and /sys",
        r"
own_mounts()
try: call('mount', b'/proc/sys', b'/proc/sys', None, 0x1000, None)
except OSError: pass
call('umount2', b'/proc/sys', 2)
out('uncovered')",
    ),
    must(
        "change the mode of a file outside",
        "chmod(2), which Landlock does not know",
        "os.chmod(B['secret'], 0o600)\nout('changed')",
    ),
    must(
        "change the times of a file outside",
        "utimensat(2), which Landlock does not know",
        "os.utime(B['secret'], (1, 1))\nout('changed')",
    ),
    must(
        "set attributes of a file outside",
        "setxattr(2), which Landlock does not know",
        "os.setxattr(B['secret'], 'user.lictor', b'1')\nout('set')",
    ),
    must(
        "set attributes of a file outside, by the newest calls",
        "setxattrat(2), later than most filters",
        r"
value = ctypes.create_string_buffer(b'1')
arguments = ctypes.create_string_buffer(struct.pack('QII', ctypes.addressof(value), 1, 0))
call('setxattrat', -100, B['secret'].encode(), 0, b'user.lictor', arguments, 16)
out('set')",
    )
    .absent(&["ENOSYS"], "setxattrat(2) came with Linux 6.13"),
    must(
        "set flags of a file outside",
        "file_setattr(2), later than most filters",
        r"
call('file_setattr', -100, B['secret'].encode(), ctypes.create_string_buffer(struct.pack('QIIII', 0x80, 0, 0, 0, 0)), 24, 0)
out('set')",
    )
    .absent(
        &["ENOSYS", "EOPNOTSUPP"],
        "file_setattr(2) came with Linux 6.17, and not every file system has it",
    ),
    should(
        "see whether a file outside exists",
        "stat(2) as an oracle",
        "os.stat(B['secret'])\nout('it does')",
    ),
    should(
        "stand in a directory outside",
        "chdir(2), which Landlock does not know",
        "os.chdir(B['outside'])\nout('there')",
    ),
    should(
        "watch a directory outside",
        "inotify(7), which Landlock does not know",
        r"
fd = check(C.inotify_init1(os.O_NONBLOCK))
check(C.inotify_add_watch(fd, B['outside'].encode(), 0xfff))
out('watched')",
    ),
    should(
        "lock a program of the host",
        "flock(2) needs no right to write",
        r"
import fcntl
with open('/usr/bin/env') as f: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
out('locked')",
    ),
    should(
        "memory and addresses of the kernel",
        "/proc/kcore, /proc/kmsg, addresses in /proc/kallsyms",
        r"
def addresses():
    with open('/proc/kallsyms') as f:
        if not any(int(line.split()[0], 16) for line in (f.readline() for _ in range(50)) if line): raise OSError(errno.EPERM, 'only zeros')
any_of(lambda: opens('/proc/kcore'), lambda: opens('/proc/kmsg'), addresses)",
    ),
    should(
        "hardware and drivers",
        "/sys readable",
        "out(os.listdir('/sys/class/net')[0])",
    ),
];
