//! What every attempt's program begins with, and how its verdict is read.

use serde_json::json;

use super::{Attempt, Verdict};

/// Before every program. `out` ends it as a success; an `OSError` that nobody catches, or reaching the end, as held.
const PRELUDE: &str = r##"
import ctypes, errno, json, os, signal, socket, stat, struct, sys, resource
B = json.loads(sys.argv[1])
signal.alarm(20)
C = ctypes.CDLL(None, use_errno=True)
C.syscall.restype = ctypes.c_long

class Out(BaseException): pass

def out(what):
    raise Out(what)

def check(result):
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

def call(name, *arguments):
    number = B['calls'][name] if isinstance(name, str) else name
    if number is None:
        raise OSError(errno.ENOSYS, 'no such call on this architecture')
    as_long = lambda a: ctypes.c_long(a) if isinstance(a, int) else a
    return check(C.syscall(ctypes.c_long(number), *[as_long(a) for a in arguments]))

# A call that reaches the kernel's own code: any error but a refusal is a success.
def reach(name, *arguments):
    try:
        call(name, *arguments)
    except OSError as e:
        if e.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
    out(f'{name} answers')

# The first that does not fail is a way out; when all fail, the last failure is the answer.
def any_of(*tries):
    last = None
    for number, what in enumerate(tries):
        try:
            what()
        except OSError as e:
            last = e
        else:
            out(f'number {number} of {len(tries)}: {what.__defaults__ or ""}')
    if last:
        raise last

def opens(path, flags=os.O_RDONLY):
    os.close(os.open(path, flags | os.O_NONBLOCK))

def reads(path):
    with open(path, 'rb') as f:
        if B['text'].encode() in f.read(4096):
            out('read ' + path)

# A success in a mount namespace of the program's own changes nothing for anybody else.
def own_mounts():
    try:
        call('unshare', 0x20000)
    except OSError:
        return
    call('mount', b'none', b'/', None, 0x44000, None)

def others():
    return [p for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()]

# Whether the bait's number names the bait here, and not somebody in a numbering of the sandbox's own.
def is_bait(pid):
    try:
        return B['dir'].encode() in open(f'/proc/{pid}/cmdline', 'rb').read()
    except OSError:
        return True

def child(what):
    pid = os.fork()
    if pid == 0:
        try:
            what()
        except OSError as e:
            os._exit(e.errno)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code) if code > 0 else f'signal {-code}')

try:
    exec(sys.argv[2])
    print('held: nothing was reached')
except Out as o:
    print('out:', o)
except OSError as e:
    print('held:', errno.errorcode.get(e.errno, e.errno), e)
"##;

/// The command line of an attempt. `bait` is what its program knows about the outside.
pub(super) fn command(attempt: &Attempt, bait: &serde_json::Value) -> Vec<String> {
    let mut known = bait.clone();
    known["calls"] = calls();
    let words = ["/usr/bin/python3", "-I", "-S", "-c", PRELUDE];
    let mut argv = words.map(str::to_owned).to_vec();
    argv.extend([known.to_string(), attempt.program.to_owned()]);
    argv
}

/// Reads what a program said. `None` when it said nothing.
pub(super) fn verdict(stdout: &str) -> Option<Verdict> {
    let mut lines = stdout.lines().rev();
    lines.find_map(|line| {
        let out = line.strip_prefix("out: ").map(|w| Verdict::Out(w.to_owned()));
        out.or_else(|| line.strip_prefix("held: ").map(|w| Verdict::Held(w.to_owned())))
    })
}

/// Numbers of system calls on this architecture.
fn calls() -> serde_json::Value {
    #[cfg(target_arch = "x86_64")]
    let only_here = [
        ("ioperm", libc::SYS_ioperm),
        ("modify_ldt", libc::SYS_modify_ldt),
        ("getpid", libc::SYS_getpid),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let only_here: [(&str, i64); 0] = [];
    let mut numbers = json!({ "ioperm": null, "modify_ldt": null, "getpid": null });
    for (name, number) in CALLS.iter().chain(&only_here) {
        numbers[name] = json!(number);
    }
    numbers
}

const CALLS: &[(&str, i64)] = &[
    ("acct", libc::SYS_acct),
    ("add_key", libc::SYS_add_key),
    ("bpf", libc::SYS_bpf),
    ("clock_adjtime", libc::SYS_clock_adjtime),
    ("clone", libc::SYS_clone),
    ("clone3", libc::SYS_clone3),
    ("delete_module", libc::SYS_delete_module),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("finit_module", libc::SYS_finit_module),
    ("fsopen", libc::SYS_fsopen),
    ("fspick", libc::SYS_fspick),
    ("init_module", libc::SYS_init_module),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("ioprio_set", libc::SYS_ioprio_set),
    ("kcmp", libc::SYS_kcmp),
    ("kexec_file_load", libc::SYS_kexec_file_load),
    ("kexec_load", libc::SYS_kexec_load),
    ("keyctl", libc::SYS_keyctl),
    ("mount", libc::SYS_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("open_tree", libc::SYS_open_tree),
    ("open_tree_attr", 467),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("personality", libc::SYS_personality),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("pivot_root", libc::SYS_pivot_root),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("ptrace", libc::SYS_ptrace),
    ("quotactl", libc::SYS_quotactl),
    ("quotactl_fd", 443),
    ("reboot", libc::SYS_reboot),
    ("request_key", libc::SYS_request_key),
    ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo),
    ("setns", libc::SYS_setns),
    ("setxattrat", 463),
    ("file_setattr", 469),
    ("swapon", libc::SYS_swapon),
    ("syslog", libc::SYS_syslog),
    ("tgkill", libc::SYS_tgkill),
    ("umount2", libc::SYS_umount2),
    ("unshare", libc::SYS_unshare),
    ("userfaultfd", libc::SYS_userfaultfd),
];
