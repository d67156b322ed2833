//! Attempts on processes of the host, on terminals, and on privileges.

use super::{Attempt, Class, Rule};

const fn must(name: &'static str, stands_for: &'static str, program: &'static str) -> Attempt {
    Attempt::new(Class::Processes, Rule::Must, [name, stands_for, program])
}

const fn should(name: &'static str, stands_for: &'static str, program: &'static str) -> Attempt {
    Attempt::new(Class::Processes, Rule::Should, [name, stands_for, program])
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    must(
        "signal a process outside",
        "kill(2) of a process of the same user",
        "if is_bait(B['pid']): os.kill(B['pid'], signal.SIGUSR1)",
    ),
    must(
        "signal a thread outside",
        "tgkill(2) and rt_sigqueueinfo(2)",
        r"
info = ctypes.create_string_buffer(struct.pack('iii', signal.SIGUSR1, 0, -1) + bytes(116))
if is_bait(B['pid']):
    any_of(lambda: call('tgkill', B['pid'], B['pid'], signal.SIGUSR1), lambda: call('rt_sigqueueinfo', B['pid'], signal.SIGUSR1, info))",
    ),
    must(
        "signal by a descriptor",
        "pidfd_send_signal(2)",
        "call('pidfd_send_signal', call('pidfd_open', B['pid'], 0), signal.SIGUSR2, None, 0)",
    ),
    must(
        "signal by way of a pipe's owner",
        "SIGIO to whom F_SETOWN names (Landlock before ABI 6)",
        r"
import fcntl
r, w = os.pipe()
fcntl.fcntl(r, 10, signal.SIGWINCH)
fcntl.fcntl(r, fcntl.F_SETOWN, B['pid'])
fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
os.write(w, b'x')",
    ),
    must(
        "trace a process outside",
        "ptrace(2) PTRACE_SEIZE",
        "call('ptrace', 0x4206, B['pid'], 0, 0)\nout('traced')",
    ),
    must(
        "read memory of a process outside",
        "process_vm_readv(2)",
        r"
here = ctypes.create_string_buffer(8)
own = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(here), 8))
its = ctypes.create_string_buffer(struct.pack('QQ', 4096, 8))
reach('process_vm_readv', B['pid'], own, 1, its, 1, 0)",
    ),
    must(
        "write memory of a process outside",
        "process_vm_writev(2), /proc/PID/mem",
        r#"
here = ctypes.create_string_buffer(8)
own = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(here), 8))
its = ctypes.create_string_buffer(struct.pack('QQ', 4096, 8))
any_of(lambda: opens(f'/proc/{B["pid"]}/mem', os.O_RDWR), lambda: reach('process_vm_writev', B['pid'], own, 1, its, 1, 0))"#,
    ),
    must(
        "take a descriptor of a process outside",
        "pidfd_getfd(2)",
        r"
fd = call('pidfd_getfd', call('pidfd_open', B['pid'], 0), B['descriptor'], 0)
reads(f'/proc/self/fd/{fd}')
out('taken')",
    ),
    must(
        "enter namespaces of a process outside",
        "setns(2) to /proc/PID/ns",
        r#"
def enter(kind, flag):
    fd = os.open(f'/proc/{B["pid"]}/ns/{kind}', os.O_RDONLY)
    call('setns', fd, flag)
any_of(lambda: enter('uts', 0x04000000), lambda: enter('net', 0x40000000), lambda: enter('ipc', 0x08000000))"#,
    ),
    must(
        "set limits of a process outside",
        "prlimit(2)",
        r"
def set():
    resource.prlimit(B['pid'], resource.RLIMIT_CORE, resource.prlimit(B['pid'], resource.RLIMIT_CORE))
def set_as_its_user():
    os.setgid(B['gid']); os.setuid(B['uid']); set()
any_of(set, lambda: child(set_as_its_user))",
    ),
    must(
        "set the priority of a process outside",
        "setpriority(2), sched_setscheduler(2), ioprio_set(2)",
        r"
any_of(lambda: os.setpriority(os.PRIO_PROCESS, B['pid'], os.getpriority(os.PRIO_PROCESS, B['pid'])),
    lambda: os.sched_setscheduler(B['pid'], os.SCHED_OTHER, os.sched_param(0)), lambda: call('ioprio_set', 1, B['pid'], 0))",
    ),
    should(
        "set the processors of a process outside",
        "sched_setaffinity(2)",
        "os.sched_setaffinity(B['pid'], os.sched_getaffinity(B['pid']))\nout('set')",
    ),
    should(
        "have a process outside killed first",
        "/proc/PID/oom_score_adj",
        "opens(f'/proc/{B[\"pid\"]}/oom_score_adj', os.O_WRONLY)\nout('opened for writing')",
    ),
    should(
        "see processes outside",
        "/proc/PID/cmdline, with whatever secrets it holds",
        r"
for pid in others():
    try: line = open(f'/proc/{pid}/cmdline', 'rb').read()
    except OSError: continue
    if B['dir'].encode() in line: out('seen')",
    ),
    should(
        "compare with a process outside",
        "kcmp(2), an oracle for addresses of the kernel",
        "call('kcmp', os.getpid(), B['pid'], 1, 0, 0)\nout('compared')",
    )
    .absent(&["ENOSYS"], "some kernels are built without kcmp(2)"),
    must(
        "shared memory of the host",
        "System V IPC by its key",
        "check(C.shmget(B['shared'], 4096, 0o444))\nout('found')",
    ),
    must(
        "message queues of the host",
        "POSIX queues by their name",
        "check(C.mq_open(B['queue'].encode(), os.O_RDONLY))\nout('opened')",
    )
    .absent(&["ENOSYS"], "some kernels are built without POSIX queues"),
    must(
        "type into a terminal",
        "ioctl(2) TIOCSTI (CVE-2017-5226)",
        r"
import fcntl
def typed(request):
    try: m, s = os.openpty()
    except OSError: s = 0
    try: os.setsid()
    except OSError: pass
    if s: fcntl.ioctl(s, 0x540E, 0)
    if C.ioctl(s, ctypes.c_ulong(request), ctypes.c_char_p(b'x')) == 0: out('typed')
    # No terminal here to type into; but the request was let through.
    if ctypes.get_errno() == errno.ENOTTY: out('asked for')
    check(-1)
typed(0x5412)",
    )
    .absent(&["EIO"], "dev.tty.legacy_tiocsti is off"),
    must(
        "type into a terminal, past a filter of 64 bits",
        "TIOCSTI + 2^32 (CVE-2019-10063, CVE-2019-7303)",
        r"
import fcntl
def typed(request):
    try: m, s = os.openpty()
    except OSError: s = 0
    try: os.setsid()
    except OSError: pass
    if s: fcntl.ioctl(s, 0x540E, 0)
    if C.ioctl(s, ctypes.c_ulong(request), ctypes.c_char_p(b'x')) == 0: out('typed')
    if ctypes.get_errno() == errno.ENOTTY: out('asked for')
    check(-1)
typed(0x5412 + (1 << 32))",
    )
    .absent(&["EIO"], "dev.tty.legacy_tiocsti is off"),
    must(
        "paste into a console",
        "ioctl(2) TIOCLINUX (CVE-2023-28100), also + 2^32 (CVE-2023-1523)",
        r"
def pasted(request):
    if C.ioctl(0, ctypes.c_ulong(request), ctypes.c_char_p(b'\x06')) == 0: return
    # Not a console here; but the request was let through.
    if ctypes.get_errno() != errno.ENOTTY: check(-1)
any_of(lambda: pasted(0x541C), lambda: pasted(0x541C + (1 << 32)))",
    ),
    must(
        "become root",
        "setuid(2) and setgid(2)",
        "os.setgid(0)\nos.setuid(0)\nif os.getuid() == 0: out('root')",
    ),
    must(
        "gain privileges by a program",
        "set-user-id programs and file capabilities without no_new_privs",
        "if C.prctl(39, 0, 0, 0, 0) == 0: out('it could')",
    ),
    must(
        "hold capabilities",
        "an effective or permitted capability",
        "lines = open('/proc/self/status').read().split('\\n')\nif any(int(l.split()[1], 16) for l in lines if l.startswith(('CapPrm', 'CapEff', 'CapInh', 'CapAmb'))): out('some')",
    ),
    should(
        "regain capabilities",
        "a bounding set that is not empty",
        "if any(C.prctl(23, n, 0, 0, 0) == 1 for n in range(41)): out('some')",
    ),
    should(
        "have the kernel start a program at a crash",
        "core_pattern's pipe, run as root outside",
        r"
_, most = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
if most != 0: out('a crash would')",
    ),
    should(
        "run before everybody else",
        "sched_setscheduler(2) SCHED_FIFO, negative nice",
        "any_of(lambda: os.nice(-1), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))",
    ),
];
