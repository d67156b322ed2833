//! Attempts on parts of the kernel that no job needs.

use super::{Attempt, Class, Rule};

const fn must(name: &'static str, stands_for: &'static str, program: &'static str) -> Attempt {
    Attempt::new(Class::Kernel, Rule::Must, [name, stands_for, program])
}

const fn should(name: &'static str, stands_for: &'static str, program: &'static str) -> Attempt {
    Attempt::new(Class::Kernel, Rule::Should, [name, stands_for, program])
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    should(
        "io_uring",
        "io_uring_setup(2) (CVE-2022-29582, CVE-2023-2598)",
        "reach('io_uring_setup', 1, 0)",
    ),
    should(
        "bpf",
        "bpf(2) BPF_MAP_CREATE (CVE-2021-3490, CVE-2022-23222)",
        r"
call('bpf', 0, ctypes.create_string_buffer(struct.pack('IIIII', 2, 4, 4, 1, 0) + bytes(100)), 72)
out('made a map')",
    ),
    should(
        "userfaultfd",
        "userfaultfd(2), which makes races in the kernel winnable",
        "call('userfaultfd', 1)\nout('made one')",
    ),
    should(
        "keyrings",
        "keyctl(2), add_key(2), request_key(2), in no namespace (CVE-2016-0728)",
        r"
any_of(lambda: call('keyctl', 0, -3, 0), lambda: call('add_key', b'user', b'lictor', b'v', 1, -2), lambda: call('request_key', b'user', b'lictor', 0, 0))",
    ),
    should(
        "performance counters",
        "perf_event_open(2) (CVE-2013-2094, CVE-2023-5717)",
        r"
call('perf_event_open', ctypes.create_string_buffer(struct.pack('IIQQQQQ', 1, 64, 0, 0, 0, 0, 0x60) + bytes(16)), 0, -1, -1, 0)
out('counting')",
    ),
    must(
        "another kernel",
        "kexec_load(2), kexec_file_load(2)",
        "any_of(lambda: reach('kexec_load', 0, 0, 0, 0xff00), lambda: reach('kexec_file_load', -1, -1, 0, 0, 0xff00))",
    )
    .absent(&["ENOSYS"], "the kernel was built without kexec"),
    must(
        "modules of the kernel",
        "init_module(2), finit_module(2), delete_module(2)",
        "any_of(lambda: reach('init_module', b'', 0, b''), lambda: reach('finit_module', -1, b'', 0), lambda: reach('delete_module', b'lictor_none', 0x800))",
    )
    .absent(&["ENOSYS"], "the kernel was built without modules"),
    should(
        "a user namespace by unshare",
        "unshare(2) CLONE_NEWUSER: capabilities over much of the kernel (CVE-2022-0185, CVE-2023-32233, CVE-2024-1086)",
        "call('unshare', 0x10000000)\nout('made')",
    ),
    should(
        "a user namespace by clone",
        "clone(2) CLONE_NEWUSER",
        r"
pid = call('clone', 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
if pid == 0: os._exit(0)
out('made')",
    ),
    should(
        "a user namespace by clone3",
        "clone3(2), whose flags a filter cannot see",
        r"
pid = call('clone3', ctypes.create_string_buffer(struct.pack('QQQQQQQQ', 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)), 64)
if pid == 0: os._exit(0)
out('made')",
    ),
    should(
        "other namespaces by unshare",
        "unshare(2) of mounts, processes, network, IPC, host name, cgroups, time",
        r"
any_of(*[lambda f=f: call('unshare', f) for f in (0x20000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000, 0x80)])",
    ),
    should(
        "other namespaces by clone",
        "clone(2) with the same flags",
        r"
def made(flag):
    if call('clone', flag | signal.SIGCHLD, 0, 0, 0, 0) == 0: os._exit(0)
any_of(*[lambda f=f: made(f) for f in (0x20000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000)])",
    ),
    must(
        "mount a file system",
        "mount(2) of proc, tmpfs, overlay (CVE-2021-3493, CVE-2023-0386)",
        r"
own_mounts(); os.mkdir('m')
any_of(lambda: call('mount', b'proc', b'm', b'proc', 0, None), lambda: call('mount', b'tmpfs', b'm', b'tmpfs', 0, None))",
    ),
    should(
        "the new calls for mounting",
        "fsopen(2), fsconfig(2), fspick(2) (CVE-2022-0185)",
        "any_of(lambda: call('fsopen', b'tmpfs', 0), lambda: call('fspick', -100, b'/', 0))",
    ),
    should(
        "a copy of a mount",
        "open_tree(2), move_mount(2)",
        "any_of(lambda: call('open_tree', -100, b'/usr', 1), lambda: reach('move_mount', -1, b'', -1, b'', 0))",
    ),
    should(
        "a copy of a mount, by the newest call",
        "open_tree_attr(2), later than most filters",
        "call('open_tree_attr', -100, b'/usr', 1, 0, 0)\nout('copied')",
    )
    .absent(&["ENOSYS"], "open_tree_attr(2) came with Linux 6.15"),
    must(
        "another root by pivot_root",
        "pivot_root(2)",
        "reach('pivot_root', b'/nonexistent', b'/nonexistent')",
    ),
    must(
        "another root by chroot",
        "chroot(2), and out of it again",
        "os.chroot('.')\nout('changed')",
    ),
    should(
        "calls of the x32 architecture",
        "numbers that slip past a filter",
        "call((B['calls']['getpid'] or 0) + 0x40000000)\nout('answered')",
    )
    .absent(&["ENOSYS"], "the kernel was built without x32"),
    should(
        "calls of 32-bit programs",
        "int 0x80 from 64-bit code, numbers that slip past a filter",
        r"
import mmap, platform
if platform.machine() != 'x86_64': raise OSError(errno.ENOSYS, 'no such gate')
def getpid():
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b'\xb8\x14\x00\x00\x00\xcd\x80\xc3')
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() != os.getpid(): raise OSError(errno.ENOSYS, 'another answer')
child(getpid)
out('answered')",
    )
    .absent(&["ENOSYS", "-11"], "the kernel runs no 32-bit programs"),
    should(
        "virtual machine sockets",
        "AF_VSOCK, a way to the machine below",
        "socket.socket(40, socket.SOCK_STREAM)\nout('made')",
    )
    .absent(&["EAFNOSUPPORT"], "the kernel was built without vsock"),
    should(
        "netlink but for routes",
        "netfilter, xfrm, uevent, audit, generic, sock_diag (CVE-2023-32233, CVE-2024-1086)",
        "any_of(*[lambda p=p: socket.socket(16, socket.SOCK_RAW, p) for p in (4, 6, 9, 12, 15, 16)])",
    ),
    should(
        "ciphers of the kernel",
        "AF_ALG (CVE-2016-8646 and others)",
        "socket.socket(38, socket.SOCK_SEQPACKET)\nout('made')",
    )
    .absent(&["EAFNOSUPPORT"], "the kernel was built without AF_ALG"),
    should(
        "rare address families",
        "AF_PACKET, AF_XDP, AF_CAN, AF_TIPC, AF_RDS, AF_BLUETOOTH (CVE-2017-7308, CVE-2021-43267)",
        "any_of(*[lambda f=f, t=t: socket.socket(f, t) for f, t in ((17, 2), (44, 3), (29, 3), (30, 2), (21, 5), (31, 3), (41, 2), (9, 5))])",
    ),
    should(
        "rare protocols",
        "SCTP, DCCP, UDP-Lite, L2TP, MPTCP (CVE-2017-6074, CVE-2024-26622)",
        "any_of(*[lambda t=t, p=p: socket.socket(socket.AF_INET, t, p) for t, p in ((1, 262), (2, 136), (1, 132), (6, 33), (2, 115))])",
    ),
    should(
        "notification of all files",
        "fanotify_init(2)",
        "call('fanotify_init', 0, 0)\nout('made')",
    )
    .absent(&["ENOSYS"], "the kernel was built without fanotify"),
    should(
        "quotas",
        "quotactl(2), quotactl_fd(2)",
        "any_of(lambda: reach('quotactl', 0x800007 << 8, 0, 0, 0), lambda: reach('quotactl_fd', -1, 0, 0, 0))",
    )
    .absent(&["ENOSYS"], "the kernel was built without quotas"),
    must(
        "swap and accounting",
        "swapon(2), acct(2)",
        "any_of(lambda: reach('swapon', b'/nonexistent', 0), lambda: reach('acct', b'/nonexistent'))",
    ),
    must(
        "restart the machine",
        "reboot(2)",
        "reach('reboot', 0, 0, 0, 0)",
    ),
    must(
        "set the clock",
        "clock_adjtime(2), settimeofday(2)",
        "reach('clock_adjtime', 0, ctypes.create_string_buffer(struct.pack('I', 0x4000) + bytes(400)))",
    ),
    must(
        "set the host's name",
        "sethostname(2)",
        "socket.sethostname(socket.gethostname())\nout('set')",
    ),
    should(
        "messages of the kernel",
        "syslog(2), with addresses and devices",
        "call('syslog', 10, 0, 0)\nout('answered')",
    ),
    should(
        "ports of the hardware",
        "ioperm(2), iopl(2)",
        "call('ioperm', 0x80, 1, 1)\nout('granted')",
    )
    .absent(&["ENOSYS"], "only x86 has such ports, and some kernels hand out none"),
    should(
        "segments of one's own",
        "modify_ldt(2) (CVE-2015-5157, CVE-2017-17053)",
        "reach('modify_ldt', 0, ctypes.create_string_buffer(64), 64)",
    )
    .absent(&["ENOSYS"], "the kernel was built without modify_ldt(2)"),
    should(
        "another personality",
        "personality(2) ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC",
        "any_of(lambda: call('personality', 0x40000), lambda: call('personality', 0x400000))",
    ),
    should(
        "memory at address zero",
        "mmap(2) below vm.mmap_min_addr, where null pointers of the kernel lead",
        r"
C.mmap.restype = ctypes.c_long
check(C.mmap(ctypes.c_void_p(0), ctypes.c_size_t(4096), 3, 0x32, -1, ctypes.c_long(0)))
out('mapped')",
    ),
    should(
        "trace one's own child",
        "ptrace(2), a way around filters and into many bugs",
        "child(lambda: call('ptrace', 0, 0, 0, 0))\nout('traced')",
    ),
];
